r"""Parameter counts of published tables, computed again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from coursekit.plots.common import COLOURS


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
