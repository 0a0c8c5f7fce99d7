r"""Pictures show what they are given: bars as long as their numbers, no label outside the figure."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch

from coursekit import plots, published
from coursekit.scores import Score


@pytest.fixture(autouse=True)
def _closed():
    plots.style()
    yield
    plt.close("all")


def test_memory_bars_add_up():
    bills = {"fp32": {"weights": 40.0, "gradients": 40.0, "optimizer": 80.0}, "lora": {"weights": 20.0}}
    ax = plots.memory_bars(bills, capacity=("RTX 4090", 24.0))
    assert sum(p.get_width() for p in ax.patches) == pytest.approx(180.0)
    ends = {round(p.get_x() + p.get_width(), 6) for p in ax.patches}
    assert 160.0 in ends and 20.0 in ends
    assert {t.get_text() for t in ax.get_legend().get_texts()} == {
        "weights",
        "gradients",
        "optimizer",
        "RTX 4090",
    }


def test_scores_show_value_and_interval():
    score = Score.of(torch.tensor([True] * 30 + [False] * 70))
    ax = plots.scores({"LoRA": score}, chance=0.2)
    (line,) = [x for x in ax.lines if len(x.get_xdata()) == 1 and x.get_marker() == "o"]
    assert line.get_xdata()[0] == pytest.approx(0.3)
    low, high = ax.collections[0].get_segments()[0][:, 0]
    assert (low, high) == pytest.approx((score.low, score.high))


def test_spectrum_of_a_rank_one_matrix_is_full_at_once():
    ax = plots.spectrum({"rank 1": [3.0, 0.0, 0.0], "even": [1.0, 1.0, 1.0]})
    assert list(ax.lines[0].get_ydata()) == pytest.approx([1, 1, 1])
    assert list(ax.lines[1].get_ydata()) == pytest.approx([1 / 3, 2 / 3, 1])


def test_matrices_to_scale_have_areas_in_proportion():
    ax = plots.matrices_to_scale(60, 40, 4)
    areas = [p.get_width() * p.get_height() for p in ax.patches]
    assert areas == [60 * 40, 60 * 4, 40 * 4]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.memory_bars({"a long label of a bar": {"weights": 3.0, "master": 2.0, "activations": 9.0}}),
        lambda: plots.predicted_and_measured(["one", "two"], [1, 2], [1.1, 2.1], "MB"),
        lambda: plots.loss_curve({"a": [3, 2, 1, 1, 1, 1, 1], "short": [1, 2]}),
        lambda: plots.grid([[1, 2], [3, 4]], ["r=1", "r=2"], ["8", "16"], "alpha", "rank"),
        lambda: plots.matrices_to_scale(576, 576, 8),
        lambda: plots.quality_against_size(published.rows("gpt3"), "mnli_accuracy", "MNLI"),
        lambda: plots.scores({"zero": Score.of(torch.tensor([True, False]))}, chance=0.2),
    ],
)
def test_nothing_is_cut_off(draw):
    figure = draw().figure
    figure.canvas.draw()
    frame = figure.bbox
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= frame.x1 + 1 and box.y1 <= frame.y1 + 1
        assert ax.has_data() or ax.patches
