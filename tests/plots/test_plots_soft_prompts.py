r"""The pictures of soft prompts show what they are given."""

from __future__ import annotations

import pytest

from coursekit.plots.alt import describe
from coursekit.plots.soft_prompts import first_steps, gated_block
from tests.pictures import assert_nothing_is_cut_off


def test_the_gate_is_on_the_prompts_softmax_alone():
    ax = gated_block()
    place = {t.get_text(): t.get_position() for t in ax.texts}
    assert place["× g"][1] == place["softmax over the prompts"][1] != place["softmax over the text"][1]
    assert "residual" in describe(ax.figure)
    assert_nothing_is_cut_off(ax.figure)


def test_the_first_steps_are_the_mean_between_the_seeds_that_lie_farthest_apart():
    ax = first_steps({"gate": [[4.0, 2.0, 1.0], [6.0, 2.0]], "no gate": [[16.0, 8.0]]}, bare=5.0)
    gate, no_gate, bare, guessing = ax.lines
    assert list(gate.get_ydata()) == [5.0, 3.5] and list(gate.get_xdata()) == [1, 2]
    assert list(no_gate.get_ydata()) == [16.0, 12.0] and set(bare.get_ydata()) == {5.0}
    assert list(guessing.get_ydata()) == pytest.approx([0.6931] * 2, abs=1e-4)
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (3.0, 6.0)
    assert [t.get_text() for t in ax.get_legend().get_texts()][:2] == [
        "gate, mean of 2 seeds",
        "no gate, one seed",
    ]
    losses = [8.0, 6.0, 4.0, 2.0, 0.5, 1.0, 1.0]
    line = first_steps({"gate": [losses]}, bare=5.0, smooth=3).lines[0]
    assert list(line.get_ydata()) == pytest.approx(
        [sum(losses[max(0, i - 2) : i + 1]) / min(3, i + 1) for i in range(7)]
    )
    assert "training loss (nats), mean of 5 steps, log scale" in describe(ax.figure)
