r"""Pictures of number formats, codes and their errors. Each function draws one kind and returns its axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from coursekit.plots.alt import says
from coursekit.plots.common import COLOURS, LINE, arrow, axes, box, without_axes


def block_flow(x: Sequence[float], levels: int) -> Axes:
    r"""The way of a block of 64 weights into codes and a scale and back, for one product; stored parts are grey.

    x: some of its weights, the largest among them. levels: how many the table has, at equal steps from -1 to 1.
    """
    weights, table = np.asarray(x, dtype=float), np.linspace(-1, 1, levels)
    absmax = np.abs(weights).max()
    codes = np.abs(weights[:, None] / absmax - table).argmin(1)

    def row(values: Sequence[float], form: str) -> str:
        return ", ".join([*(format(value, form) for value in values), "…"]).replace("-", "−")

    shown, again = row(weights, ".2f"), row(absmax * table[codes], ".2f")
    bits = int(levels - 1).bit_length()
    ax = axes(figsize=(9.2, 2.9))
    for left, text in ((0, f"x: 64 weights\n{shown}"), (9.1, f"x̂: 64 weights\n{again}")):
        ax.text(left + 1.4, 2, text, ha="center", va="center", fontsize=9)
    box(ax, 4.4, 2.9, 2.8, 0.9, f"scale: 32 bits\nabsmax = {absmax:.2f}")
    box(ax, 4.4, 0.2, 2.8, 0.9, f"64 codes: {bits} bits each\n{row(codes, 'd')}")
    arrow(ax, 2.6, 2.35, 4.4, 3.35)
    arrow(ax, 2.6, 1.65, 4.4, 0.65)
    arrow(ax, 5.8, 2.9, 5.8, 1.1)
    arrow(ax, 7.2, 3.35, 9.0, 2.35)
    arrow(ax, 7.2, 0.65, 9.0, 1.65)
    for x, y, text, side in (
        (3.4, 3.1, "largest magnitude", "right"), (3.3, 0.9, f"to the nearest\nof {levels} levels", "right"),
        (5.9, 2.0, "÷ absmax", "left"), (8.2, 3.1, "× absmax", "left"), (8.2, 0.9, "the codes' levels", "left"),
    ):  # fmt: skip
        ax.text(x, y, text, ha=side, va="center", fontsize=8, color=LINE)
    arrow(ax, 12.1, 2, 13.0, 2)
    ax.add_patch(plt.Rectangle((13.0, 1.2), 2.0, 1.6, facecolor="none", edgecolor=LINE))
    ax.text(14.0, 2, "Ŵ, of all blocks:\nout × in", ha="center", va="center", fontsize=8)
    ax.text(14.0, 3.7, "input: (in)", ha="center", va="center", fontsize=9)
    arrow(ax, 14.0, 3.5, 14.0, 2.8)
    arrow(ax, 14.0, 1.2, 14.0, 0.5)
    ax.text(14.0, 0.3, "product: (out)", ha="center", va="center", fontsize=9)
    says(
        ax,
        f"A block of 64 weights x, such as {shown}; its largest magnitude is the scale, {absmax:.2f}, 32 bits; each "
        f"weight divided by it becomes the code of the nearest of {levels} levels, {bits} bits, such as "
        f"{row(codes, 'd')}. These are stored. The codes' levels times the scale are x̂, 64 weights again, such as "
        f"{again}; all blocks make Ŵ, out × in, which takes an input (in) to a product (out)",
    )
    return without_axes(ax, (-0.2, 15.3), (0, 4))


def one_block(x: Sequence[float], back: Sequence[float], levels: Sequence[float]) -> Axes:
    r"""The weights `x` of one block as dots, what comes `back` as red dashes, and a pale line at each of the `levels`,
    which are those of the table times the block's scale, so that the outermost two stand at plus and minus absmax.
    """
    x, back, levels = (np.asarray(values, dtype=float) for values in (x, back, levels))
    ax, places = axes(figsize=(8.2, 4.6)), np.arange(1, len(x) + 1)
    ax.hlines(levels, 0.3, len(x) + 0.7, color="#c9ced2", linewidth=0.9, zorder=0)
    ax.vlines(places, x, back, color=COLOURS[2], linewidth=1.4)
    ax.scatter(places, x, s=7, color=COLOURS[0], label="weight", zorder=3)
    ax.scatter(places, back, s=36, color=COLOURS[2], marker="_", label="comes back as", zorder=2)
    ax.set_xlim(0.3, len(x) + 0.7)
    ax.set_xlabel("place in the block")
    ax.set_ylabel("weight")
    beside = ax.secondary_yaxis("right")
    beside.set_yticks([levels.min(), 0, levels.max()], ["−absmax", "0", "absmax"])
    beside.tick_params(length=0)
    beside.spines["right"].set_visible(False)
    top, far = np.abs(x).argmax(), np.abs((back - x) * x).argmax()
    ends = (("weight", x, 0), ("comes back as", back, 2))  # of a long line far out, where there is room
    for text, at, place, colour, side in (
        ("the largest weight", x[top], places[top], LINE, 0),
        *((name, y[far], places[far], COLOURS[i], 4 * np.sign(y[far] - (x + back)[far] / 2)) for name, y, i in ends),
    ):
        ax.annotate(text, (place, at), xytext=(7, side), textcoords="offset points", ha="left", va="center_baseline",
                    fontsize=9, color=colour)  # fmt: skip
    says(ax, f"{len(levels)} levels from {levels.min():.3g} to {levels.max():.3g}, a line each")
    return ax


def relative_gaps(rows: Mapping[str, Any], limits: tuple[float, float] | None = None) -> Axes:
    r"""How far the next number is, as a share of the number itself: range along, precision down, on log axes. A line
    is named at its right end, one that only falls at its left.

    rows: label -> numbers; those above zero are drawn. limits: ends of the axis of numbers.
    """
    ax = axes(figsize=(7.0, 3.6))
    for i, (name, values) in enumerate(rows.items()):
        values = np.unique(np.asarray(values, dtype=float))
        values = values[values > 0]
        gaps, colour = np.diff(values) / values[:-1], COLOURS[i % len(COLOURS)]
        ax.plot(values[:-1], gaps, label=name, color=colour, linewidth=1.2)
        last = np.count_nonzero(values[:-1] <= limits[1]) - 1 if limits is not None else -1
        at = 0 if (np.diff(gaps) < 0).all() else last
        ax.annotate(name, (values[at], gaps[at]), xytext=(6, 0), textcoords="offset points", color=colour,
                    fontsize=9, va="center_baseline")  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    if limits is not None:
        ax.set_xlim(*limits)
    ax.set_xlabel("number")
    ax.set_ylabel("distance to the next, relative")
    return ax


def curves(
    lines: Mapping[str, Mapping[float, float]], xlabel: str, ylabel: str, logx: bool = False,
    xticks: Sequence[float] | None = None, yticks: Sequence[float] | None = None,
) -> Axes:  # fmt: skip
    r"""One line for each entry (label -> x -> y), named at its right end. xticks, yticks: where labels stand along an
    axis.
    """
    ax = axes()
    for i, (name, line) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        ax.plot(list(line), list(line.values()), label=name, color=colour, marker="o", markersize=4, linewidth=1.4)
        ax.annotate(name, [*line.items()][-1], xytext=(7, 0), textcoords="offset points", color=colour,
                    fontsize=9, va="center_baseline")  # fmt: skip
    if logx:
        ax.set_xscale("log")
    ax.set_yscale("log")
    if xticks is not None:
        ax.xaxis.minorticks_off()
        ax.set_xticks(list(xticks), [f"{x:g}" for x in xticks])
    if yticks is not None:
        ax.yaxis.set_minor_formatter("")
        ax.set_yticks(list(yticks), [f"{y:g}" for y in yticks])
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return ax


def stairs(x: Sequence[float], back: Sequence[float]) -> Axes:
    r"""What rounding makes of the weights `x` of a block, ascending, and the line of slope 1 that a straight-through
    estimator takes it for on the way back.
    """
    ax, ends = axes(figsize=(7.0, 3.4)), [min(x), max(x)]
    stair = dict(drawstyle="steps-mid", linewidth=1.2, marker="o", markersize=4)
    ax.plot(x, back, color=COLOURS[0], label="forward: rounded", **stair)
    ax.plot(ends, ends, color=COLOURS[2], linestyle="--", linewidth=1.2, label="backward: slope 1")
    ax.annotate("backward: slope 1", (ends[0], ends[0]), xytext=(14, -1), textcoords="offset points",
                color=COLOURS[2], fontsize=9, va="center_baseline")  # fmt: skip
    ax.annotate("forward: rounded", (max(x), max(back)), xytext=(-40, 0), textcoords="offset points",
                color=COLOURS[0], fontsize=9, ha="right", va="center_baseline")  # fmt: skip
    ax.set_xlabel("weight")
    ax.set_ylabel("rounded weight")
    return ax


def equal_areas(levels: Sequence[float], largest: float) -> Axes:
    r"""The normal density with a stroke at each level and, in turns of two colours, the cell that is nearest to it.

    levels: in [-1, 1], ascending. largest: where the level 1 stands, in standard deviations.
    """
    ax = axes()
    places = np.asarray(levels, dtype=float) * largest
    middles = (places[1:] + places[:-1]) / 2
    edges = np.concatenate([[-3.4], middles, [3.4]])
    density = np.vectorize(NormalDist().pdf)
    for i, (left, right) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        x = np.linspace(left, right, 40)
        ax.fill_between(x, density(x), color=("#cfe3f1", "#8fbcd9")[i % 2], linewidth=0)
    ax.vlines(places, 0, density(places), color=COLOURS[2], linewidth=1.6)
    for name, place, side, away in (("−1", places[0], "right", -4), ("1", places[-1], "left", 4)):
        ax.annotate(f"level {name}", (place, density(place)), xytext=(away, 4), textcoords="offset points",
                    ha=side, fontsize=9, color=COLOURS[2])  # fmt: skip
    ax.set_xlim(-3.4, 3.4)
    ax.set_ylim(0, 0.43)
    ax.set_xlabel("weight, in standard deviations")
    ax.set_ylabel("density")
    ends = f"from {places[0]:.2f} to {places[-1]:.2f}"
    says(ax, f"the normal density with {len(places)} levels {ends} and the cell of each")
    return ax


def code_use(shares: Mapping[str, Sequence[float]]) -> Sequence[Axes]:
    r"""How often each level of a code is used, one panel for each entry (label -> shares); a line at equal shares."""
    _, panels = plt.subplots(1, len(shares), figsize=(3.5 * len(shares), 2.8), sharey=True, squeeze=False)
    for ax, (name, values) in zip(panels[0], shares.items(), strict=True):
        ax.bar(range(len(values)), values, color=COLOURS[0], width=0.8)
        ax.axhline(1 / len(values), color="black", linestyle="--", linewidth=0.8)
        ax.set_title(name)
        ax.set_xticks([0, len(values) - 1], ["−1", "1"])
        ax.set_xlabel("level, ascending")
    panels[0][0].set_ylabel("share of the weights")
    ax = panels[0][-1]
    ax.text(len(values) - 0.4, 1 / len(values), "equally", ha="right", va="bottom", fontsize=9)
    return panels[0]
