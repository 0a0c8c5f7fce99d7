r"""Pictures of the training cycle show the numbers they are given, and nothing lies outside the figure."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from pictures import assert_nothing_is_cut_off

from coursekit import plots
from coursekit.evaluation.scores import Score
from coursekit.plots import training_cycle as draw


@pytest.fixture(autouse=True)
def _closed():
    plots.style()
    yield
    plt.close("all")


def test_a_loss_is_drawn_over_tokens_with_a_line_for_each_bar():
    losses = np.linspace(6.5, 3.5, 40)
    ax = draw.loss_and_entropies(losses, {"nothing": 6.2, "pairs": 3.7}, tokens=1024, smooth=10)
    faint, mean, *bars = ax.lines
    np.testing.assert_array_equal(faint.get_xdata(), 1024 * np.arange(1, 41))
    np.testing.assert_allclose(mean.get_ydata()[0], losses[:10].mean())
    assert mean.get_xdata()[0] == 5 * 1024
    assert [line.get_ydata()[0] for line in bars] == [6.2, 3.7]
    assert [t.get_text() for t in ax.texts] == ["nothing: 6.20", "pairs: 3.70"]
    assert ax.get_ylim()[0] < 3.5 and ax.get_ylim()[1] > 6.5
    assert_nothing_is_cut_off(ax.figure)


def test_a_run_shorter_than_the_mean_is_drawn():
    ax = draw.loss_and_entropies([6.0, 5.0], {"nothing": 6.2}, tokens=8)
    assert list(ax.lines[1].get_ydata()) == [5.5]


def test_examples_have_their_interval_over_sentences_and_a_dot_for_each_of_several_seeds():
    def score(right, n=10):
        return Score.of(torch.arange(n) < right)

    one, several = score(4), [score(5), score(7), score(6)]
    ax = draw.by_examples({"prompt": {0: [score(2)], 10: [one]}, "training": {10: several}}, chance=0.2)
    first, second = ax.containers
    np.testing.assert_allclose(first.lines[0].get_xdata(), [0.5, 10])
    np.testing.assert_allclose(second.lines[0].get_ydata(), [0.6])
    (bar,) = second.lines[2]
    ends = [np.mean([getattr(s, end) for s in several]) for end in ("low", "high")]
    np.testing.assert_allclose(bar.get_segments()[0][:, 1], ends)
    dots = [line for line in ax.lines if line.get_marker() == "."]
    assert [sorted(line.get_ydata()) for line in dots] == [[0.5, 0.6, 0.7]], "one seed alone has no dot"
    np.testing.assert_allclose(first.lines[2][0].get_segments()[1][:, 1], [one.low, one.high])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "10"]
    assert_nothing_is_cut_off(ax.figure)


@pytest.mark.parametrize("trained", [(10,), (10, 100), (10, 100, 1000)])
def test_the_name_of_the_constant_answers_line_meets_no_interval(trained):
    score = Score.of(torch.arange(20) < 6)  # its interval crosses the line
    ax = draw.by_examples(
        {
            "prompt": {n: [score] for n in (0, 1, 5, 10)},
            "training": {n: [score, score] for n in trained},
            "the prompt's own": {10: [score]},
        },
        chance=0.27,
    )
    ax.figure.canvas.draw()
    text, cap = ax.texts[0].get_window_extent(), 4 * ax.figure.dpi / 72
    bars = [ax.transData.transform(line) for c in ax.containers for line in c.lines[2][0].get_segments()]
    assert len(bars) == 4 + len(trained) + 1
    for (x, low), (_, high) in bars:
        assert low < text.y0 and text.y1 < high, "this one would strike the text"
        assert x + cap < text.x0 or text.x1 < x - cap


def test_learned_and_kept_joins_the_strengths_of_a_remedy():
    points = {"replay": [(20.0, 32.0), (21.0, 28.0)], "EWC": [(19.5, 30.0)]}
    ax = draw.learned_and_kept(points, before=(94.0, 23.0), new="tweets")
    replay, ewc, before = ax.lines
    assert list(replay.get_xdata()) == [20.0, 21.0] and list(replay.get_ydata()) == [32.0, 28.0]
    assert before.get_ydata()[0] == 23.0 and ax.get_xlim()[1] < 30, (
        "the start does not squeeze the rest together"
    )
    assert "the tweets at 94" in ax.texts[0].get_text()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["replay", "EWC"]
    assert "tweets" in ax.get_xlabel()
    assert_nothing_is_cut_off(ax.figure)


def test_a_preference_is_drawn_with_its_two_lines_of_no_change():
    shares = {"film, held out": Score.of(torch.arange(8) < 7), "product": Score.of(torch.arange(8) < 4)}
    left, right = draw.preference([0.0, 0.2, 0.5], shares)
    assert list(left.lines[0].get_ydata()) == [0.0, 0.2, 0.5] and left.lines[1].get_ydata()[0] == 0
    assert list(right.containers[0].lines[0].get_ydata()) == [0.875, 0.5]
    assert [t.get_text() for t in right.get_xticklabels()] == ["film,\nheld out", "product"]
    assert_nothing_is_cut_off(left.figure)
