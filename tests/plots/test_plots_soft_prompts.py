r"""The pictures of soft prompts show what they are given."""

import math

import pytest
import torch
from matplotlib.colors import to_rgb

from coursekit.plots.alt import describe
from coursekit.plots.common import COLOURS
from coursekit.plots.soft_prompts import attention_shares, first_steps, gated_block


def test_the_gate_is_on_the_prompts_softmax_alone():
    ax = gated_block()
    place = {t.get_text(): t.get_position() for t in ax.texts}
    assert place["× g"][1] == place["softmax over the prompts"][1] != place["softmax over the text"][1]
    assert "residual" in describe(ax.figure)


def test_the_first_steps_are_the_mean_between_the_seeds_that_lie_farthest_apart():
    ax = first_steps({"gate": [[4.0, 2.0, 1.0], [6.0, 2.0]], "no gate": [[16.0, 8.0]]}, every=1)
    gate, no_gate, coin = ax.lines
    assert list(gate.get_ydata()) == [5.0, 2.0] and list(gate.get_xdata()) == [1, 2]
    assert list(no_gate.get_ydata()) == [16.0, 8.0] and set(coin.get_ydata()) == {math.log(2)}
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (2.0, 6.0)
    assert ax.get_yscale() == "log" and "y: training loss (nats), log scale." in describe(ax.figure)


def test_behind_the_first_step_a_point_is_the_mean_of_some_in_a_row_at_their_middle():
    (line, _) = first_steps({"gate": [[4.0, 2.0, 1.0, 3.0, 9.0]]}, every=2).lines
    assert list(line.get_ydata()) == [4.0, 3.0, 2.0] and list(line.get_xdata()) == [1, 1.5, 3.5]


def test_attention_is_drawn_where_it_is_given_and_the_prefix_is_orange():
    shares = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
    ax = attention_shares(shares, n=1)
    filled = {(round(p.get_x() + 0.45), round(p.get_y() + 0.45)): p.get_facecolor() for p in ax.patches}
    assert {place: colour[3] for place, colour in filled.items()} == pytest.approx(
        {(0, 0): 0.575, (1, 0): 0.575, (2, 0): 0, (0, 1): 0.3625, (1, 1): 0.3625, (2, 1): 0.575}
    )
    assert filled[0, 1][:3] == to_rgb(COLOURS[1]) and filled[2, 1][:3] == to_rgb(COLOURS[0])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["p0", "0", "1"]
    assert "2 for token 0, 3 for token 1" in describe(ax.figure)


def test_the_first_steps_are_named_at_their_ends():
    ax = first_steps({"gate": [[4.0, 2.0]], "no gate": [[16.0, 8.0]]}, 1)
    assert ax.get_legend() is None
    names = {text.get_text(): text for text in ax.texts}
    assert {name: text.get_color() for name, text in names.items()} == {
        line.get_label(): line.get_color() for line in ax.lines}  # fmt: skip
    assert names["no gate"].xy == (2, 8)
