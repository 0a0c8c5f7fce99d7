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
    runs = {"fast": [[4.0, -9.0], [6.0, -1.0]], "slow": [[3.0, 0.0], [3.0, 1.0]]}
    ax = reinforcement.gained(["form", "lost"], runs, {"all": ["form", "lost"]})
    assert [[bar.get_width() for bar in bars] for bars in ax.containers] == [[5.0, -5.0], [0.0], [3.0, 0.5], [3.5]]
    assert sorted(text.get_text() for text in ax.texts) == ["+0.0", "+0.5", "+3.0", "+3.5", "+5.0", "mean", "−5.0"]
    places = {name: [tuple(dot) for dot in dots.get_offsets()] for name, dots in zip(runs, ax.collections, strict=True)}
    for (name, own), bars, below in zip(runs.items(), ax.containers[::2], ax.containers[1::2], strict=True):
        middles = [bar.get_y() + bar.get_height() / 2 for bar in (*bars, *below)]
        rows = [(*run, sum(run)) for run in own]
        assert places[name] == [(x, pytest.approx(y)) for run in rows for x, y in zip(run, middles, strict=True)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["each run", "fast", "slow"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["form", "lost", "all"]
    alone = reinforcement.gained(["form", "lost"], {"fast": runs["fast"]}, {"all": ["form", "lost"]})
    assert [bar.get_y() + bar.get_height() / 2 for bars in alone.containers for bar in bars] == [0, 1, 2]
