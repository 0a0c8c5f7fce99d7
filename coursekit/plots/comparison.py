r"""Pictures of published and measured tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from coursekit.plots.common import COLOURS, axes


def quality_against_size(
    rows: Sequence[Any],
    score: str,
    label: str,
    colours: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""One score of a published table against the number of trained parameters, on a log axis."""
    ax = axes(ax)
    names = list(dict.fromkeys(row.method for row in rows))
    colours = colours or dict(zip(names, [*COLOURS, "#444444", "#b0b0b0"], strict=False))
    for name in names:
        own = [row for row in rows if row.method == name]
        x = [float(row.published) * 1e6 for row in own]
        ax.plot(
            x,
            [row.scores[score] for row in own],
            "o-",
            color=colours[name],
            label=name,
            markersize=6,
            linewidth=1,
        )
    ax.set_xscale("log")
    ax.set_xlabel("trained parameters, as published")
    ax.set_ylabel(label)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return ax
