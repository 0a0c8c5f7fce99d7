r"""Pictures of learning from a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from coursekit.plots.common import COLOURS, axes


def shares(curves: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Axes:
    r"""Shares of the answers over the steps of a training, a line for each label."""
    ax = axes(ax, figsize=(7.0, 3.4))
    for colour, marker, (label, values) in zip(COLOURS, "osD^", curves.items(), strict=False):
        ax.plot(range(1, len(values) + 1), values, marker=marker, markersize=4, color=colour, label=label)
    ax.set_ylim(-0.03, 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step")
    ax.set_ylabel("share of the answers")
    ax.legend()
    return ax
