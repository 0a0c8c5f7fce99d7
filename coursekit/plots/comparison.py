r"""Pictures of published and measured tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
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


def counts_recomputed(tables: Mapping[str, Sequence[Any]]) -> Sequence[Axes]:
    r"""Parameter counts of published tables, computed again: computed / published, a panel for each table.

    tables: title -> rows of `published.rows`. Blue dots round to what is printed, red crosses do not.
    """
    known = {title: [row for row in rows if row.exact is not None] for title, rows in tables.items()}
    most = max(map(len, known.values()))
    _, panels = plt.subplots(1, len(known), figsize=(10.4, 0.9 + 0.24 * most), squeeze=False)
    for ax, (title, rows) in zip(panels[0], known.items(), strict=True):
        for agrees, colour, marker in ((True, COLOURS[0], "o"), (False, COLOURS[2], "x")):
            at = [i for i, row in enumerate(rows) if row.agrees is agrees]
            x = [rows[i].exact / 1e6 / float(rows[i].published) for i in at]
            ax.scatter(
                x, at, color=colour, marker=marker, s=26, label="rounds to print" if agrees else "does not"
            )
        setting = [f" {row.setting}" if row.setting is not None else "" for row in rows]
        names = [f"{row.model} · {row.method}{s}" for row, s in zip(rows, setting, strict=True)]
        ax.set_yticks(range(len(rows)), names, fontsize=8)
        ax.set_ylim(most - 0.5, -0.5)
        ax.axvline(1, color="grey", linestyle=":", linewidth=1)
        ax.set_xlim(0.86, 1.16)
        ax.set_xlabel("computed / published")
        ax.set_title(title)
    panels[0][0].legend(loc="lower left", fontsize=8)
    return panels[0]
