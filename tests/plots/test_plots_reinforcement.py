r"""Pictures of learning from a reward."""

import matplotlib
import pytest

from coursekit.plots import reinforcement

matplotlib.use("agg")


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


def test_a_bar_is_the_mean_of_its_runs_and_each_run_a_dot():
    runs = {"fast": [[4.0, -9.0, 1.0], [6.0, -1.0, 1.0]], "slow": [[3.0, 0.0, 0.0], [3.0, 1.0, 2.0]]}
    parts, rows = ["won", "lost", "form"], {"both": ["won", "lost"], "won": ["won"], "form": ["form"]}
    rows["all"] = parts
    ax = reinforcement.gained(parts, runs, rows)
    assert [[bar.get_width() for bar in bars] for bars in ax.containers] == [
        [0.0, 1.0, 1.0], [5.0], [3.5, 1.0, 4.5], [3.0],
    ], "all but what another row contains, then that"  # fmt: skip
    full, pale = ax.containers[:2]
    assert {bar.get_alpha() for bar in full} == {None} and pale[0].get_alpha() < 1
    shown = ["both", "won", "form", "all"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == shown
    assert [tick.get_alpha() < 1 for tick in ax.get_yticklabels()] == [name == "won" for name in shown]
    means = ["+0.0", "+5.0", "+1.0", "+1.0", "+3.5", "+3.0", "+1.0", "+4.5"]
    assert [text.get_text() for text in ax.texts] == ["mean", *means]
    for own, bars, below, dots in zip(
        runs.values(), ax.containers[::2], ax.containers[1::2], ax.collections, strict=True
    ):
        both, won, form, every = (bar.get_y() + bar.get_height() / 2 for bar in (bars[0], below[0], *bars[1:]))
        expected = [(a + b, both, a, won, c, form, a + b + c, every) for a, b, c in own]
        flat = [(run[i], pytest.approx(run[i + 1])) for run in expected for i in range(0, 8, 2)]
        assert [tuple(dot) for dot in dots.get_offsets()] == flat
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["each run", "fast", "slow"]
    alone = reinforcement.gained(parts, {"fast": runs["fast"]}, {"won": ["won"], "all": parts})
    middles = [bar.get_y() + bar.get_height() / 2 for bars in alone.containers for bar in bars]
    assert middles == pytest.approx([0, 1])
