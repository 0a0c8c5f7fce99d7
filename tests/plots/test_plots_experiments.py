r"""The picture of accuracies: dots and bars where the intervals are, and the baselines as lines."""

import pytest

from coursekit.experiments.intervals import Interval
from coursekit.plots.experiments import LINES, accuracies


def test_dots_bars_and_reference_lines_stand_where_the_numbers_are():
    found = {"LoRA": Interval(0.8, 0.7, 0.85), "head": Interval(0.6, 0.5, 0.7)}
    ax = accuracies(found, {"constant answer": 0.5, "full fine-tuning": 0.9})
    dots = [container[0] for container in ax.containers]
    assert [(d.get_xdata()[0], d.get_ydata()[0]) for d in dots] == [(0.8, 0), (0.6, 1)]
    bars = [container[2][0].get_segments()[0][:, 0] for container in ax.containers]
    assert bars[0] == pytest.approx([0.7, 0.85]) and bars[1] == pytest.approx([0.5, 0.7])
    lines = {line.get_label(): line for line in ax.lines if line.get_label() in LINES}
    assert lines["constant answer"].get_xdata()[0] == 0.5
    assert lines["full fine-tuning"].get_color() == LINES["full fine-tuning"]["color"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["LoRA", "head"]


def test_a_line_with_its_steps_keeps_its_colour():
    ax = accuracies({"head": Interval(0.6, 0.5, 0.7)}, {"full fine-tuning, 600 steps": 0.9})
    (line,) = [line for line in ax.lines if line.get_label() == "full fine-tuning, 600 steps"]
    assert line.get_color() == LINES["full fine-tuning"]["color"]


def test_each_seed_is_a_small_dot_below_its_arm():
    found = {"LoRA": Interval(0.8, 0.7, 0.85), "head": Interval(0.6, 0.5, 0.7)}
    ax = accuracies(found, seeds={"LoRA": [0.79, 0.81]}, colours={"LoRA": "red"})
    (dots,) = [line for line in ax.lines if line.get_marker() == "."]
    assert list(dots.get_xdata()) == [0.79, 0.81] and dots.get_color() == "red"
    assert all(0 < y < 0.5 for y in dots.get_ydata())
