r"""Pictures of learning from a reward."""

from __future__ import annotations

import matplotlib
import pytest

from coursekit import plots
from coursekit.plots import reinforcement
from tests.pictures import assert_nothing_is_cut_off

matplotlib.use("agg")
plots.style()


def test_a_line_for_each_share():
    ax = reinforcement.shares({"paid": [0.3, 0.5, 0.9], "right": [0.3, 0.2, 0.1]})
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[0.3, 0.5, 0.9], [0.3, 0.2, 0.1]]
    assert list(ax.lines[0].get_xdata()) == [1, 2, 3]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"], "what lies on the first line hides it not"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["paid", "right"]
    assert ax.get_xlabel() and ax.get_ylabel()


def test_the_legend_hides_no_line():
    curves = {"paid": [1.0, 1.0, 1.0], "right": [0.3, 0.2, 0.1]}
    ax = reinforcement.shares(curves, colours=("#111111", "#222222"))
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().y0 >= ax.bbox.y1 - 1
    assert [line.get_color() for line in ax.lines] == ["#111111", "#222222"]


def test_the_clip_has_its_band_where_nothing_more_is_earned():
    ratio = [0.5, 0.8, 1.0, 1.2, 1.5]
    good, bad = ([min(r * A, min(max(r, 0.8), 1.2) * A) for r in ratio] for A in (1, -1))
    panels = reinforcement.clipped(ratio, {1.0: good, -1.0: bad}, 0.2)
    for ax, A, values, flat in zip(panels, (1.0, -1.0), (good, bad), ((1.2, 1.5), (0.5, 0.8)), strict=True):
        dashed, line, drawn = ax.lines
        assert list(line.get_ydata()) == values and list(dashed.get_ydata()) == [A * r for r in ratio]
        assert drawn.get_xydata().tolist() == [[1.0, A]]
        (band,) = ax.patches
        assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx(flat)
        at_ends = [y for x, y in line.get_xydata() if flat[0] <= x <= flat[1]]
        assert len(set(at_ends)) == 1, "flat under the band"
    assert_nothing_is_cut_off(panels[0].figure)


def test_parts_stand_one_behind_the_other():
    names = ["right", "right number, wrong form", "wrong number, likeliest right"]
    names += ["both wrong, one of eight right", "all wrong"]
    bars = {"before": [0.25, 0.05, 0.07, 0.28, 0.35], "after": [0.52, 0.0, 0.03, 0.16, 0.29]}
    ax = reinforcement.parts({arm: dict(zip(names, sizes, strict=True)) for arm, sizes in bars.items()})
    for row, sizes in enumerate(bars.values()):
        ends = [bars[row].get_x() + bars[row].get_width() for bars in ax.containers]
        assert ends == pytest.approx([sum(sizes[: i + 1]) for i in range(5)]) and ends[-1] == pytest.approx(1)
    written = [text.get_text() for text in ax.texts]
    assert sorted(written) == sorted(f"{x:.2f}" for sizes in bars.values() for x in sizes if x >= 0.04)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == names
    assert_nothing_is_cut_off(ax.figure)
