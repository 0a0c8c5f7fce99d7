r"""The panels of the adapters' evidence show the curves of which at least two arms are there."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from coursekit import plots
from coursekit.comparison.evidence.intervals import Interval
from coursekit.plots.adapters import drops_and_shares
from tests.pictures import assert_nothing_is_cut_off


class Evidence:
    arms = ("whole", "half", "quarter")

    def accuracy(self, arm):
        return Interval(0.8, 0.78, 0.82) if arm == "whole" else Interval(0.7, 0.68, 0.72)


@pytest.fixture(autouse=True)
def _closed():
    plots.style()
    yield
    plt.close("all")


def test_a_curve_is_drawn_when_two_of_its_points_have_run():
    groups = {
        "Dropped": ("blocks", {"dropped": {0: "whole", 2: "quarter"}}),
        "Before": ("before, %", {"random": {0: "whole", 80: "not yet"}, "snip": {0: "half"}}),
        "After": ("after, %", {"random": {0: "whole", 50: "half", 80: "not yet"}, "snip": {80: "not yet"}}),
    }
    dropped, after = drops_and_shares(groups, Evidence())
    assert [ax.get_title("left") for ax in (dropped, after)] == ["Dropped", "After"]
    assert [ax.get_xlabel() for ax in (dropped, after)] == ["blocks", "after, %"]
    lines = [line for line in after.lines if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in lines] == [[0.8, 0.7]]
    assert dropped.get_ylim() == after.get_ylim()
    assert after.figure.axes == [dropped, after]
    assert_nothing_is_cut_off(after.figure)


def test_without_a_curve_there_is_no_picture():
    assert drops_and_shares({"After": ("after, %", {"random": {0: "whole"}})}, Evidence()) == ()
    assert not plt.get_fignums()
