r"""A picture of forgetting: what `training_cycle.learned_and_kept` draws, with a name at each point."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

#: Where a name may stand: points to the right of and above its point, and which part of its own edge lies there.
CORNERS = (
    ((4, 3), "left", "bottom"),
    ((-4, -3), "right", "top"),
    ((-4, 3), "right", "bottom"),
    ((4, -3), "left", "top"),
    ((0, 6), "center", "bottom"),
    ((0, -6), "center", "top"),
    ((8, 0), "left", "center_baseline"),
    ((-8, 0), "right", "center_baseline"),
    ((11, 0), "left", "center_baseline"),
    ((-11, 0), "right", "center_baseline"),
    ((9, 6), "left", "bottom"),
    ((1, 5), "left", "bottom"),
    ((-10, -4), "right", "center_baseline"),
)


def mark_gap(ax: Axes, point: tuple[float, float], gap: float) -> Axes:
    r"""Draws how far (x, y) lies from a line above or below it, dotted, and writes `gap`, y minus the line's, beside
    it, a third of the way from that line.
    """
    x, y = point
    ax.plot([x, x], [y - gap, y], color="#444444", linewidth=1, linestyle=":")
    there = (y * (y - gap) ** 2) ** (1 / 3)  # on an axis of logarithms
    ax.annotate(f"{gap:+.1f}".replace("-", "−"), (x, there), xytext=(3, 0), textcoords="offset points",
                fontsize=9, va="center")  # fmt: skip
    return ax


def name_points(ax: Axes, names: Iterable[tuple[str, tuple[float, float]]], size: float = 7.5) -> Axes:
    r"""Writes each (name, (x, y)) of `names` at its point, in the colour of the labelled line that has this point, and
    in the first corner where it touches nothing drawn.

    Call it last: what is drawn afterwards is not looked at. Where no corner is free, that with the fewest touches.
    """
    ax.figure.canvas.draw()  # only then is it known where everything lies
    for name, point in names:
        colour = _colour(ax, point)
        label = ax.annotate(name, point, xytext=(0, 0), textcoords="offset points", fontsize=size, color=colour)
        counts = [_placed(ax, label, corner) for corner in range(len(CORNERS))]
        _placed(ax, label, counts.index(min(counts)))
    return ax


def _colour(ax: Axes, point: tuple[float, float]) -> str:
    r"""That of the first labelled line with this point, else a dark grey."""
    for line in ax.lines:
        if not str(line.get_label()).startswith("_") and (line.get_xydata() == point).all(axis=1).any():
            return str(line.get_color())
    return "#444444"


def touches(ax: Axes, label: Annotation) -> int:
    r"""How many texts, lines, error bars, markers, dots and legends of `ax` a label touches, and whether the edge."""
    box = label.get_window_extent()
    boxes = [text.get_window_extent() for text in ax.texts if text is not label]
    boxes += [legend.get_window_extent()] if (legend := ax.get_legend()) else []
    lines = 0
    for line in ax.lines:
        path = line.get_path().transformed(line.get_transform())
        lines += path.intersects_bbox(box, filled=False)
        if line.get_marker() not in ("None", None):
            reach = line.get_markersize() / 2 * ax.figure.dpi / 72
            ends = np.asarray(path.vertices)
            boxes += [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in ends]
    for part in ax.collections:
        if isinstance(part, LineCollection):
            paths = [path.transformed(part.get_transform()) for path in part.get_paths()]
            lines += sum(path.intersects_bbox(box, filled=False) for path in paths)
        elif isinstance(part, PathCollection):
            reaches = np.sqrt(part.get_sizes()) / 2 * ax.figure.dpi / 72
            ends = part.get_offset_transform().transform(part.get_offsets())
            reaches = np.broadcast_to(reaches, len(ends))
            boxes += [Bbox.from_extents(x - r, y - r, x + r, y + r) for (x, y), r in zip(ends, reaches, strict=True)]
    inside = ax.bbox.x0 < box.x0 and box.x1 < ax.bbox.x1 and ax.bbox.y0 < box.y0 and box.y1 < ax.bbox.y1
    return int(lines + sum(box.overlaps(other) for other in boxes) + (not inside))


def _placed(ax: Axes, label: Annotation, corner: int) -> int:
    r"""Sets the label into that of its point's corners, and counts what it touches there."""
    label.xyann, ha, va = CORNERS[corner]
    label.set(ha=ha, va=va)
    return touches(ax, label)
