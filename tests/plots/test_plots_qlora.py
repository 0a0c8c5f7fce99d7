r"""How far an update moves, and what roundings let through of it."""

import pytest
import torch

from coursekit.plots import qlora as plots_qlora
from coursekit.plots.alt import describe


def test_the_share_of_an_update_beyond_halfway_is_said():
    ax = plots_qlora.rounded_back(torch.cat([torch.full((999,), 1e-2), torch.tensor([0.7])]))
    (drawn,) = (patch.get_data() for patch in ax.patches)
    assert drawn.values.max() == torch.tensor(0.999)
    assert drawn.edges[drawn.values.argmax()] == pytest.approx(1e-2, rel=0.1)
    assert [line.get_xdata()[0] for line in ax.lines] == [0.5]
    (told,) = (text.get_text() for text in ax.get_legend().get_texts())
    assert told == "ΔW: 0.1% of the weights beyond halfway"
    assert told in describe(ax.figure)


def test_a_few_of_a_million_are_counted_by_the_million():
    ax = plots_qlora.rounded_back(torch.cat([torch.full((499_999,), 1e-3), torch.tensor([0.7])]))
    assert ax.get_legend().get_texts()[0].get_text() == "ΔW: 2.0 weights in a million beyond halfway"


def test_what_arrives_of_an_update_is_drawn_over_its_size():
    ax = plots_qlora.comes_through({"nearest": {1: 0.0, 10: 0.4, 50: 0.9}, "by chance": {1: 1.0, 10: 0.9, 50: 0.95}})
    nearest, chance = ax.lines
    assert list(nearest.get_xdata()) == [1, 10, 50] and list(nearest.get_ydata()) == [0.0, 0.4, 0.9]
    assert list(chance.get_ydata()) == [1.0, 0.9, 0.95]
    assert ax.get_xscale() == "log" and [text.get_text() for text in ax.get_xticklabels()] == ["1×", "10×", "50×"]
    assert [text.get_text() for text in ax.texts] == ["nearest", "by chance"]
