r"""The course's pictures. Each function draws one kind and returns its axes, so that a cell can add to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

COLOURS = ("#1b4965", "#e09f3e", "#9e2a2b", "#7a9e7e", "#5fa8d3", "#7d5ba6")
#: In pictures of a data flow: what is frozen, what trains, arrows and what is written at them.
FROZEN, TRAINED, LINE = "#dfe3e6", COLOURS[1], "#444444"


def style() -> None:
    r"""The course's look. The paper stays white, so that a figure reads the same on a light and on a dark page."""
    mpl.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.figsize": (7.0, 3.6),
            "figure.constrained_layout.use": True,
            "figure.dpi": 90,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": mpl.cycler(color=COLOURS),
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "legend.frameon": False,
        }
    )


def axes(**figure: Any) -> Axes:
    r"""New axes in a figure of their own."""
    return plt.subplots(**figure)[1]


def box(
    ax: Axes, x: float, y: float, width: float, height: float, text: str = "", colour: str = FROZEN, size: float = 9
) -> None:
    r"""A part of a data flow, with (x, y) its lower left corner."""
    ax.add_patch(plt.Rectangle((x, y), width, height, facecolor=colour, edgecolor="none"))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def arrow(ax: Axes, x0: float, y0: float, x1: float, y1: float, text: str = "") -> None:
    r"""The way from one part of a data flow to the next, with what goes there above it."""
    ax.annotate("", (x1, y1), (x0, y0), arrowprops=dict(arrowstyle="->", color=LINE, shrinkA=1, shrinkB=1))
    if text:
        ax.text((x0 + x1) / 2, max(y0, y1) + 0.08, text, ha="center", va="bottom", fontsize=8, color=LINE)


def without_axes(ax: Axes, x: tuple[float, float], y: tuple[float, float]) -> Axes:
    r"""A data flow that reaches from `x` to `y` is done: its numbers mean nothing."""
    ax.set_xlim(*x)
    ax.set_ylim(*y)
    ax.axis("off")
    return ax


def name_lines(ax: Axes) -> Axes:
    r"""The label of each line at its right end, in its colour, in place of a legend; apart where two would touch.

    Call it last, when the axes have their limits. Lines across the whole axes, such as `axhline`'s, stay without.
    """
    ax.figure.canvas.draw()  # only then is it known where everything lies
    size, dots, last = 9, ax.figure.dpi / 72, -np.inf
    labelled = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    lines = [line for line in labelled if line.get_transform() == ax.transData]
    ends = {line: ax.transData.transform(line.get_xydata()[-1])[1] for line in lines}
    for line in sorted(lines, key=ends.__getitem__):
        last = max(ends[line], last + 1.35 * size * dots)
        ax.annotate(line.get_label(), line.get_xydata()[-1], (8, (last - ends[line]) / dots), va="center_baseline",
                    textcoords="offset points", fontsize=size, color=line.get_color(),
                    bbox=dict(facecolor="white", edgecolor="none", pad=1))  # fmt: skip
    return ax


def whiskers(found: Iterable[Any], times: float = 1) -> tuple[np.ndarray, np.ndarray]:
    r"""The values, and how far their intervals reach below and above, as `errorbar` wants them."""
    value, low, high = (times * np.array([[one.value, one.low, one.high] for one in found])).T
    return value, np.stack([value - low, high - value])


def scores(results: Mapping[str, Any], chance: float | None = None, *, line: str = "chance") -> Axes:
    r"""Accuracies with their 95 % intervals; `chance` as a line, called `line`. results: label -> evaluation.Score."""
    ax = axes(figsize=(7.0, 1.0 + 0.42 * len(results)))
    values, ends = whiskers(results.values())
    y = np.arange(len(results))
    ax.errorbar(values, y, xerr=ends, fmt="o", color=COLOURS[0], capsize=4)
    for value, high, row in zip(values, values + ends[1], y, strict=True):
        ax.text(high + 0.012, row, f"{value:.3f}", va="center", fontsize=9)
    ax.set_yticks(y, list(results))
    ax.set_ylim(len(results) - 0.5, -0.5)
    if chance is not None:
        ax.axvline(chance, color="grey", linestyle="--", linewidth=1)
        # Beside the line at the foot of the axes, where no point lies.
        ax.annotate(line, (chance, 0.02), xycoords=("data", "axes fraction"), xytext=(3, 0),
                    textcoords="offset points", fontsize=9, color="grey")  # fmt: skip
    ax.set_xlim(0, min(1.08, max(values + ends[1]) + 0.12))
    ax.set_xlabel("accuracy, with its 95 % interval")
    return ax
