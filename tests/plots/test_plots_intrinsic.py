r"""The picture of the intrinsic dimension marks what its numbers say."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from coursekit import plots
from coursekit.plots import intrinsic as plots_intrinsic


@pytest.fixture(autouse=True)
def _closed():
    plots.style()
    yield
    plt.close("all")


def circles(ax) -> list[tuple[float, float]]:
    return [
        tuple(*line.get_xydata())
        for line in ax.lines
        if line.get_fillstyle() == "none" and len(line.get_xdata())
    ]


def test_the_first_mean_above_the_mark_is_circled():
    runs = {
        "SAID": {100: [0.8, 0.7], 10: [0.6, 0.5], 1000: [0.79, 0.79]},
        "DID": {10: [0.5, 0.5], 100: [0.6, 0.7], 1000: [0.75]},
    }
    ax = plots_intrinsic.accuracy_by_directions(
        runs, full=0.8, nothing={"classifier alone": 0.5}, beside={30: 0.6}
    )
    # Curves stand a little apart. 0.72 is 90 % of full; the second curve comes there with a single run.
    assert circles(ax) == [pytest.approx((100, 0.75), rel=0.1)]
    means = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert means["SAID"] == pytest.approx([0.55, 0.75, 0.79]) and means["this run"] == [0.6]
    assert means["DID"] == pytest.approx([0.5, 0.65]), "a line joins means of equally many runs"
    dots = [line for line in ax.lines if line.get_marker() == "o" and line.get_fillstyle() == "full"]
    dots = [line for line in dots if len(line.get_xdata())]  # without that of the legend
    assert sum(len(line.get_xdata()) for line in dots) == 11
    hollow = [len(line.get_xdata()) for line in dots if line.get_markerfacecolor() == "white"]
    assert hollow == [1], "at 1,000 the second curve has fewer runs than elsewhere"
    said = {t.get_text() for t in ax.get_legend().get_texts()}
    assert {"first tried d above the 90 % line", "fewer runs than elsewhere"} <= said
    assert {t.get_text() for t in ax.texts} == {"all weights of the blocks", "90 % of it", "classifier alone"}
    levels = {round(line.get_ydata()[0], 6) for line in ax.lines if line.get_linestyle() == ":"}
    assert levels == {0.8, 0.72, 0.5}


def test_nothing_is_circled_where_nothing_comes_that_far():
    ax = plots_intrinsic.accuracy_by_directions({"SAID": {10: [0.5]}}, full=0.8, nothing={})
    assert circles(ax) == []
    assert {t.get_text() for t in ax.get_legend().get_texts()} == {"SAID"}, "no d has fewer runs than another"
