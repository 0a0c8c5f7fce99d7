r"""The panels of the adapters' evidence show the arms that are there, and what was timed."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from coursekit import plots
from coursekit.comparison.evidence.intervals import Interval
from coursekit.plots.adapters import drops_and_shares
from tests.pictures import assert_nothing_is_cut_off


class Evidence:
    arms = ("whole", "half")

    def accuracy(self, arm):
        return Interval(0.8, 0.78, 0.82) if arm == "whole" else Interval(0.7, 0.68, 0.72)


@pytest.fixture(autouse=True)
def _closed():
    plots.style()
    yield
    plt.close("all")


def test_what_has_not_run_is_left_out_and_times_stand_beside():
    curves = {"random": {0: "whole", 50: "half", 80: "not yet"}, "snip": {80: "not yet"}}
    groups = {
        "Dropped": ("blocks", {"dropped": {0: "whole"}}),
        "Before": ("before, %", {"random": {0: "not yet"}, "snip": {0: "half"}}),
        "After": ("after, %", curves),
    }
    *drops, times = drops_and_shares(groups, Evidence(), {"training step": {0: 1.0, 2: 0.8}})
    assert [(ax.get_title("left"), ax.get_xlabel()) for ax in drops] == [
        (t, x) for t, (x, _) in groups.items()
    ]
    shown = {line.get_label(): line for line in times.lines}
    assert list(shown["training step"].get_ydata()) == [1.0, 0.8] and times.get_ylim()[0] == 0
    after = [line for line in drops[2].lines if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in after] == [[0.8, 0.7]]
    assert_nothing_is_cut_off(times.figure)


def test_a_group_of_which_nothing_has_run_has_no_panel():
    groups = {
        "Drop": ("blocks", {"dropped": {0: "not yet"}}),
        "After": ("after, %", {"random": {0: "whole"}}),
    }
    drop, times = drops_and_shares(groups, Evidence(), {"training step": {0: 1.0}})
    assert drop.get_xlabel() == "after, %" and times.figure.axes == [drop, times]
