r"""A picture of forgetting: what `training_cycle.learned_and_kept` draws, with a name at each point."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes


def name_points(ax: Axes, names: Iterable[tuple[str, tuple[float, float]]]) -> Axes:
    r"""Writes each (name, (x, y)) of `names` at its point, small and to the upper right."""
    for name, point in names:
        ax.annotate(name, point, xytext=(4, 3), textcoords="offset points", fontsize=7, color="#444444")
    return ax
