r"""Names at the points of a picture of forgetting."""

import matplotlib.pyplot as plt

from coursekit import plots
from coursekit.experiments import forgetting as evidence
from coursekit.plots import forgetting, training_cycle


def test_every_line_has_its_name_at_a_point_and_none_touches_anything():
    found = evidence.read().without("OFT", "linear layers", ("full", 0.01), ("WiSE-FT", 0.3))
    ax = training_cycle.learned_and_kept(found.curves(), found.point(evidence.BEFORE), new="tweets")
    half = found.point(("replay", 0.5))
    gap = evidence.gap(*half, found.curves()["full"])
    assert forgetting.mark_gap(ax, half, gap) is ax and (number := ax.texts[-1]).get_text() == "−2.8"
    assert list(ax.lines[-1].get_ydata()) == [half[1] - gap, half[1]]
    before, ways = len(ax.texts), [("full", 6e-4), ("WiSE-FT", 0.5), ("replay", 0.05), ("EWC", 1000), ("L2-SP", 0.1)]
    ways.append(("LoRA", 16))
    wanted = [(kind, found.point((kind, strength))) for kind, strength in ways]
    assert forgetting.name_points(ax, wanted, size=10) is ax
    names = ax.texts[before:]
    assert [(t.get_text(), t.xy) for t in names] == wanted and {t.get_size() for t in names} == {10}
    assert [forgetting.touches(ax, t) for t in (number, *names)] == [0] * (1 + len(names))
    colours = {line.get_label(): line.get_color() for line in ax.lines}
    assert [t.get_color() for t in names] == [colours[kind] for kind, _ in ways]


def test_a_name_makes_room_for_lines_markers_and_other_names():
    ax = plots.axes()
    ax.plot([0, 1, 2], [0, 1, 2], marker="o")
    forgetting.name_points(ax, [("middle", (1, 1)), ("once more", (1, 1))])
    first, second = ax.texts
    assert (first.xyann, second.xyann) == ((-4, 3), (4, -3))  # beside the line, and then on its other side
    assert forgetting.touches(ax, first) == forgetting.touches(ax, second) == 0
    second.xyann = (-1, 3)
    second.set(ha="right", va="bottom")
    assert forgetting.touches(ax, second) >= 2  # the other name, and the marker
    second.xyann = (-1000, 3)
    assert forgetting.touches(ax, second) == 1  # outside
    plt.close("all")


def test_a_name_makes_room_for_dots_of_any_size_and_for_error_bars():
    ax = plots.axes()
    ax.scatter([1, 2, 2.5], [1, 2, 2.5], s=[4, 400, 9])
    ax.errorbar([3], [1], yerr=[[0.5], [0.5]], fmt="none")
    ax.set_xlim(0, 4)
    label = ax.annotate("name", (2, 2), xytext=(5, 0), textcoords="offset points", va="center")
    ax.figure.canvas.draw()
    assert forgetting.touches(ax, label) == 1  # the dot reaches ten points
    label.xyann = (11, 0)
    assert forgetting.touches(ax, label) == 0
    label.xy, label.xyann = (1, 1), (5, 0)
    assert forgetting.touches(ax, label) == 0, "this dot is small"
    label.xy, label.xyann = (3, 1.2), (-5, 0)
    assert forgetting.touches(ax, label) == 1  # the error bar
    forgetting.name_points(ax, [("name", (2, 2)), ("name", (3, 1))])
    label.remove()
    assert [forgetting.touches(ax, text) for text in ax.texts] == [0, 0]
    plt.close("all")
