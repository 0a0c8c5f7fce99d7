r"""Pictures of learning from a reward."""

import matplotlib
import pytest

from coursekit.plots import reinforcement

matplotlib.use("agg")


def test_a_line_for_each_share():
    ax = reinforcement.shares({"paid": [0.3, 0.5, 0.9], "right": [0.3, 0.2, 0.1]})
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[0.3, 0.5, 0.9], [0.3, 0.2, 0.1]]
    assert list(ax.lines[0].get_xdata()) == [1, 2, 3]
    assert {text.get_text(): text.xy for text in ax.texts} == {"paid": (3, 0.9), "right": (3, 0.1)}
    assert [text.get_color() for text in ax.texts] != [line.get_color() for line in ax.lines], "the lowest first"
    assert {text.get_color() for text in ax.texts} == {line.get_color() for line in ax.lines}
    assert ax.get_xlabel() and ax.get_ylabel()


def test_names_at_the_same_height_do_not_touch():
    ax = reinforcement.shares({"paid": [1.0, 1.0], "right": [0.3, 1.0]}, colours=("#111111", "#222222"))
    ax.figure.canvas.draw()
    one, other = (text.get_window_extent() for text in ax.texts)
    assert not one.overlaps(other)
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
    assert [[bar.get_width() for bar in bars] for bars in ax.containers] == [[0.0, 5.0, 1.0, 1.0], [3.5, 3.0, 1.0, 4.5]]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["both", "won", "form", "all"]
    means = ["+0.0", "+5.0", "+1.0", "+1.0", "+3.5", "+3.0", "+1.0", "+4.5"]
    assert [text.get_text() for text in ax.texts] == ["mean", *means]
    for own, bars, dots in zip(runs.values(), ax.containers, ax.collections, strict=True):
        both, won, form, every = (bar.get_y() + bar.get_height() / 2 for bar in bars)
        expected = [(a + b, both, a, won, c, form, a + b + c, every) for a, b, c in own]
        flat = [(run[i], pytest.approx(run[i + 1])) for run in expected for i in range(0, 8, 2)]
        assert [tuple(dot) for dot in dots.get_offsets()] == flat
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["each run", "fast", "slow"]
    alone = reinforcement.gained(parts, {"fast": runs["fast"]}, {"won": ["won"], "all": parts})
    middles = [bar.get_y() + bar.get_height() / 2 for bars in alone.containers for bar in bars]
    assert middles == pytest.approx([0, 1])
