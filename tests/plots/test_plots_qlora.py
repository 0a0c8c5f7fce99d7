r"""Two models beside each other."""

from __future__ import annotations

import torch
from matplotlib.colors import same_color

from coursekit.plots import qlora as plots_qlora
from coursekit.plots.alt import describe
from coursekit.plots.hybrid import FAMILIES
from tests.pictures import assert_nothing_is_cut_off


def test_two_models_side_by_side():
    losses = {"LoRA": [3.0, 2.0, 1.5, 1.2], "QLoRA": [3.1, 2.1, 1.4, 1.3]}
    nats = {"LoRA": torch.tensor([1.0, 2.0, 0.5]), "QLoRA": torch.tensor([1.1, 1.8, 0.6])}
    left, right = plots_qlora.side_by_side(losses, nats, "nats for the right grade")
    assert right.collections[0].get_offsets().tolist() == torch.stack(list(nats.values()), 1).tolist()
    assert (right.get_xlabel(), right.get_ylabel()) == ("LoRA", "QLoRA")
    assert right.get_aspect() == 1, "above and below the diagonal are alike to the eye"
    assert all(tick == int(tick) for tick in left.get_xticks())
    assert [line.get_linestyle() for line in left.lines] == ["-", "-", "--", "--"], "each step and the means"
    assert all(same_color(line.get_color(), FAMILIES["reparameterised"]) for line in left.lines)
    assert [line.get_linestyle() for line in left.get_legend().get_lines()] == ["-", "--"]


def test_updates_stand_between_two_levels_and_their_border():
    ax = plots_qlora.rounded_back([0.01, 0.02, 0.6])
    level, upper, strokes = ([float(s[0, 0]) for s in c.get_segments()] for c in ax.collections[1:])
    assert (level, upper, strokes) == ([0], [1], [0.01, 0.02, 0.6])
    (border,) = ax.lines
    assert set(border.get_xdata()) == {0.5}
    assert "3 layers from 0.01 to 0.6" in describe(ax.figure)
    assert_nothing_is_cut_off(ax.figure)
