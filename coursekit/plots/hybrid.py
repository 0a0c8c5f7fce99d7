r"""Pictures of what methods touch, of gates, and of many methods in one chart."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from coursekit.plots import alt
from coursekit.plots.common import COLOURS, axes, whiskers
from coursekit.plots.experiments import LINES

#: How a method acts at a place of a block, and the word for it in a picture.
WAYS = {
    "adds beside": "beside",
    "adds behind": "behind",
    "multiplies": "scales",
    "trains what is there": "trains",
    "puts tokens before": "before",
}
#: One colour for each family of methods.
FAMILIES = {
    "baseline": "#222222",
    "additive": COLOURS[1],
    "selective": COLOURS[2],
    "reparameterised": COLOURS[0],
    "hybrid": COLOURS[3],
}
#: The family of the part behind each kind of gate.
GATED = {"prefix": "additive", "adapter": "additive", "query": "reparameterised", "value": "reparameterised"}


def places(
    touched: Mapping[str, Mapping[str, str]], columns: Sequence[str], families: Mapping[str, str],
    parts: Mapping[str, Mapping[str, str]] | None = None,
) -> Axes:  # fmt: skip
    r"""Which method acts where, one row for each method and one column for each place of a block.

    touched: method -> place -> one of `WAYS`. columns: the places, in the order in which a token passes them. families:
    method -> one of `FAMILIES`, whose colour it gets. parts: method -> place -> family of what it has there, where that
    is not its own.
    """
    names, shown = list(touched), set()
    ax = axes(figsize=(1.7 + 0.75 * len(columns), 1.9 + 0.3 * len(names)))
    for row, name in enumerate(names):
        for column, place in enumerate(columns):
            way = touched[name].get(place)
            family = (parts or {}).get(name, {}).get(place, families[name])
            colour = "#f0f1f2" if way is None else FAMILIES[family]
            ax.add_patch(plt.Rectangle((column + 0.06, row + 0.1), 0.88, 0.8, color=colour))
            if way is not None:
                shown.add(family)
                ax.text(column + 0.5, row + 0.5, WAYS[way], ha="center", va="center", fontsize=8,
                        color="white" if _light(colour) < 0.4 else "black")  # fmt: skip
    ax.set_xlim(0, len(columns))
    ax.set_ylim(len(names), 0)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=9)
    ax.set_yticks(np.arange(len(names)) + 0.5, names)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    alt.says(ax, "; ".join(
        f"{name} ({families[name]}) " + ", ".join(
            f"{way} ({' and '.join(p.replace(chr(10), ' ') for p in columns if found.get(p) == way)})"
            for way in WAYS if way in found.values()
        )
        for name, found in touched.items()
    ))  # fmt: skip
    ax.legend(
        handles=[Patch(color=FAMILIES[f], label=f) for f in FAMILIES if f in shown],
        loc="upper left", bbox_to_anchor=(0, -0.01), ncols=len(FAMILIES), fontsize=9, handlelength=1.0,
    )  # fmt: skip
    return ax


def _light(colour: str) -> float:
    r"""How light a colour is to the eye: 0 black, 1 white."""
    return float(np.dot((0.2126, 0.7152, 0.0722), to_rgb(colour)))


def gates(
    before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]], spread: Mapping[str, Sequence[float]]
) -> Sequence[Axes]:
    r"""The mean value of each gate in each layer, before (ring) and after training (dot): a panel for each kind.

    before, after: kind of gate, of `GATED` -> one value between 0 (closed) and 1 (open) for each layer, from the bottom
    up. spread: standard deviation of the latter between sentences, a bar. A panel has the colour of its part's family.
    """
    figure, panels = plt.subplots(1, len(before), figsize=(2.3 * len(before), 3.0), sharey=True, squeeze=False)
    ends = [
        a + sign * sd for kind in after for a, sd in zip(after[kind], spread[kind], strict=True) for sign in (-1, 1)
    ]
    ends += [value for values in before.values() for value in values]
    low, high = min(ends), max(ends)
    for ax, kind in zip(panels[0], before, strict=True):
        colour = FAMILIES[GATED[kind]]
        layer = np.arange(1, len(before[kind]) + 1)
        ax.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        ax.plot(layer, before[kind], "o", color=colour, markerfacecolor="white", label="before")
        ax.errorbar(layer, after[kind], yerr=spread[kind], fmt="o", color=colour, capsize=3, label="after")
        ax.set_title(kind)
        ax.set_xticks(layer[:: max(1, len(layer) // 6)])
        ax.set_xlabel("layer")
        ax.set_xlim(0.4, len(layer) + 0.6)
    room = max(0.05, 0.15 * (high - low))
    panels[0][0].set_ylim(min(low, 0.5) - room, max(high, 0.5) + room)
    panels[0][0].set_ylabel("mean gate")
    colours = dict.fromkeys(FAMILIES[GATED[kind]] for kind in before)
    marks = {
        when: tuple(Line2D([], [], marker="o", linestyle="", color=c, markerfacecolor=fill or c) for c in colours)
        for when, fill in (("before", "white"), ("after", None))
    }
    handler = {tuple: HandlerTuple(ndivide=None)}
    figure.legend(marks.values(), marks, handler_map=handler, loc="outside upper right", ncols=len(marks), fontsize=9)
    return panels[0]


def differences(
    found: Mapping[str, Any], families: Mapping[str, str] | None, label: str, *, margin: float,
    left: float | None = None, filled: Collection[str] = ("better", "worse"), kept: Collection[str] | None = None,
    numbers: bool = True, reference: str = "", lines: Mapping[str, float] | None = None,
) -> Axes:  # fmt: skip
    r"""Differences to one reference in points, a row for each method.

    found: method -> `experiments.intervals.Difference`, in the order of the rows. families: method -> one of
    `FAMILIES`, or None: one colour for all. margin: in points, what would not matter: a band. left: where the axis
    begins, in points; what lies farther out is an arrow at the edge. filled: the verdicts that are clear; a mark of any
    other is hollow. kept: methods that are filled instead, as not inferior. numbers: they stand in the margin; without
    them rows are lower, for many methods. reference: its name, over the line at 0. lines: name -> points of others, of
    `plots.experiments.LINES`.
    """
    ax = axes(figsize=(8.4, 1.3 + 0.25 * len(found)) if numbers else (7.0, 1.3 + 0.19 * len(found)))
    names = list(found)
    told = {name: one.verdict in filled if kept is None else name in kept for name, one in found.items()}
    yes, no = ("clear", "not clear") if kept is None else ("not inferior", "not shown to be")
    alike = families is None
    families = dict.fromkeys(found, "reparameterised") if families is None else families
    for family, colour in FAMILIES.items():
        for clear in (True, False):
            rows = [i for i, name in enumerate(names) if families[name] == family and told[name] == clear]
            if not rows:
                continue
            words = ([] if alike else [family]) + ([] if clear else [no])
            values, ends = whiskers([found[names[i]] for i in rows], 100)
            ax.errorbar(
                values, rows, xerr=ends, fmt="o", color=colour, markerfacecolor=colour if clear else "white",
                markersize=5, capsize=2, elinewidth=0.9, label=", ".join(words) or yes,
            )  # fmt: skip
    ax.axvspan(-margin, margin, color="#e9eaec", zorder=-1)
    if left is not None:
        ax.set_xlim(left)
    for row, (name, one) in enumerate(found.items()):
        if left is not None and 100 * one.value < left:
            colour = FAMILIES[families[name]]
            ax.plot(0.015, row, marker="<", color=colour, markerfacecolor=colour if told[name] else "white",
                    markersize=7, transform=ax.get_yaxis_transform(), clip_on=False)  # fmt: skip
        if numbers:
            ax.annotate(one.in_points(), (1, row), xycoords=("axes fraction", "data"), xytext=(6, 0), va="center",
                        textcoords="offset points", fontsize=8, annotation_clip=False)  # fmt: skip
    ax.axvline(0, color="#777777", linestyle="--", linewidth=1, zorder=0)
    for name, at in (lines or {}).items():
        ax.axvline(at, linewidth=1.2, zorder=0, **LINES[name])
    for name, at in (({reference: 0.0} if reference else {}) | dict(lines or {})).items():
        ax.annotate(name, (at, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), ha="center",
                    textcoords="offset points", fontsize=9,
                    color=LINES[name]["color"] if at else "#777777")  # fmt: skip
    ax.set_yticks(range(len(names)), names, fontsize=10 if numbers else 9)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel(label)
    used = [family for family in FAMILIES if family in {families[name] for name in names if name in families}]
    if len(used) > 1:
        marks = [Line2D([], [], marker="o", linestyle="", color=FAMILIES[family], label=family) for family in used]
        ax.legend(handles=marks, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(FAMILIES), fontsize=9)
    return ax
