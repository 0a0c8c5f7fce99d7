r"""Runs and counts side by side: accuracy over the learning rate, and published parameter counts computed again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from coursekit.plots.common import COLOURS, axes
from coursekit.plots.experiments import LINES

#: Curves of one colour, one after the other.
_DASHES = ("-", "--", ":", "-.")


def counts_recomputed(tables: Mapping[str, Sequence[Any]]) -> Sequence[Axes]:
    r"""Parameter counts of published tables, computed again: computed / published, a panel for each table.

    tables: title -> rows of `published.rows`. Blue dots round to what is printed, red diamonds do not; both are hollow
    where the setting was chosen to fit. A row is named by its model and method, by the method alone where the whole
    panel is about one model.
    """
    known = {title: [row for row in rows if row.exact is not None] for title, rows in tables.items()}
    most = max(map(len, known.values()))
    _, panels = plt.subplots(1, len(known), figsize=(10.4, 0.9 + 0.24 * most), squeeze=False)
    for ax, (title, rows) in zip(panels[0], known.items(), strict=True):
        for agrees, colour, marker in ((True, COLOURS[0], "o"), (False, COLOURS[2], "D")):
            for fitted in (False, True):
                at = [i for i, row in enumerate(rows) if (row.agrees, row.fitted) == (agrees, fitted)]
                x = [rows[i].exact / 1e6 / float(rows[i].published) for i in at]
                inside = "white" if fitted else colour
                label = ("rounds to print" if agrees else "does not") + (", fitted" if fitted else "")
                ax.scatter(
                    x, at, edgecolor=colour, facecolor=inside, marker=marker, s=24, label=label, zorder=3
                )
        setting = [f" {row.setting}" if row.setting is not None else "" for row in rows]
        models = [f"{row.model} · " if len({r.model for r in rows}) > 1 else "" for row in rows]
        names = [f"{m}{row.method}{s}" for m, row, s in zip(models, rows, setting, strict=True)]
        ax.set_yticks(range(len(rows)), names, fontsize=8)
        ax.set_ylim(most - 0.5, -0.5)
        ax.axvline(1, color="grey", linestyle=":", linewidth=1)
        ax.set_xlim(0.86, 1.16)
        ax.set_xlabel("computed / published")
        ax.set_title(title)
    panels[0][0].legend(loc="lower left", fontsize=7)
    return panels[0]


def by_learning_rate(
    curves: Mapping[str, Mapping[float, float]],
    once: Mapping[str, Collection[float]] | None = None,
    *,
    colours: Mapping[str, str] | None = None,
    lines: Mapping[str, float] | None = None,
) -> Axes:
    r"""Validation accuracy over the learning rate, a line for each of `curves`, a ring around the one chosen.

    curves: label -> learning rate -> accuracy. once: label -> rates that one seed alone was run with: hollow points,
    and not chosen. colours: label -> colour, such as its family's; curves of one colour differ in their dashes. lines:
    name -> accuracy, of `plots.experiments.LINES`.
    """
    ax, once = axes(), {} if once is None else once
    own = dict(zip(curves, cycle(COLOURS), strict=False)) | dict(colours or {})
    drawn: Counter[str] = Counter()
    hollow = dict(marker="o", markersize=5, markerfacecolor="white", linestyle="none", zorder=3)
    ring = dict(marker="o", markersize=12, fillstyle="none", linestyle="none")
    for label, curve in curves.items():
        rates, colour = sorted(curve), own[label]
        line = dict(color=colour, linestyle=_DASHES[drawn[colour] % len(_DASHES)], marker="o", markersize=4)
        drawn[colour] += 1
        ax.plot(rates, [curve[rate] for rate in rates], label=label, **line)
        single = [rate for rate in rates if rate in once.get(label, ())]
        if single:
            ax.plot(single, [curve[rate] for rate in single], color=colour, **hollow)
        best = max((rate for rate in rates if rate not in single), key=curve.__getitem__)
        ax.plot(best, curve[best], color=colour, **ring)
    ax.set_xscale("log")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("validation accuracy")
    for name, value in (lines or {}).items():
        ax.axhline(value, linewidth=1.2, label=name, zorder=0, **LINES[name])
    signs = {"chosen": ring}
    if any(once.get(label) for label in curves):
        signs["one seed, too far behind to be run again"] = hollow
    handles = [
        *ax.get_legend_handles_labels()[0],
        *(Line2D([], [], color="grey", label=n, **s) for n, s in signs.items()),
    ]
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, fontsize=8)
    return ax
