r"""The picture of accuracies: dots and bars where the intervals are, and the baselines as lines."""

import itertools

import pytest

from coursekit.experiments.intervals import Interval
from coursekit.plots import alt
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


def test_lines_are_named_at_their_upper_ends():
    ax = accuracies({"head": Interval(0.6, 0.5, 0.7)}, {"full fine-tuning, 600 steps": 0.9})
    (name,) = ax.texts
    assert name.xy == (0.9, 1) and " ".join(name.get_text().split()) == "full fine-tuning, 600 steps"
    assert ax.get_legend() is None


def test_names_of_lines_that_stand_close_do_not_touch_and_are_told_once():
    lines = {"probe on [CLS]": 0.742, "probe on the mean": 0.799, "full fine-tuning": 0.859, "constant answer": 0.504}
    ax = accuracies({"LoRA": Interval(0.85, 0.83, 0.86)}, lines)
    ax.figure.draw_without_rendering()
    boxes = {text.get_text().strip(): text.get_window_extent() for text in ax.texts}
    rows = {text.get_text().strip(): text.get_text().count("\n") for text in ax.texts}
    assert boxes.keys() == lines.keys()
    flat = sorted((rows[name], box.x0, box.x1) for name, box in boxes.items())
    assert all(row != other or right < left for (row, _, right), (other, left, _) in itertools.pairwise(flat))
    assert all(alt.describe(ax.figure).count(name) == 1 for name in lines)
