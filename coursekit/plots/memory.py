r"""Pictures of what training keeps in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from coursekit.plots.common import axes
from coursekit.plots.forgetting import name_points

#: One colour for each part of the memory bill, the same in every notebook. They differ in lightness too.
MEMORY_COLOURS = {
    "weights": "#1b4965",
    "gradients": "#e09f3e",
    "adapter, gradients": "#e09f3e",  # what trains, where an adapter stands apart from its frozen base
    "master": "#5fa8d3",
    "optimizer": "#9e2a2b",
    "activations": "#7a9e7e",
}


def memory_bars(
    bills: Mapping[str, Mapping[str, float]],
    unit: str = "GB",
    capacity: tuple[str, float] | Mapping[str, float] | None = None,
    peaks: Mapping[str, float] | None = None,
) -> Axes:
    r"""One horizontal stacked bar for each entry of `bills` (label -> category -> amount in `unit`).

    capacity: (name, amount), drawn as a line: what a card holds; of several cards, name -> amount, each named at its
    line. peaks: label -> the most that is there at any one moment, as a mark on the bar: categories need not be at
    their largest together. The number at a bar is its peak then, and else the sum, with one decimal where the longest
    has two digits; beside cards it stands at the right, where no line makes a bar that fits look too long. A bar that
    stands alone has a number in each of its parts.
    """
    ax = axes(figsize=(7.0, 1.2 + 0.45 * len(bills)))
    labels = list(bills)
    cards = [capacity] if isinstance(capacity, tuple) else list((capacity or {}).items())
    left = np.zeros(len(labels))
    for category, colour in MEMORY_COLOURS.items():
        sizes = np.array([bills[label].get(category, 0.0) for label in labels])
        if not sizes.any():
            continue
        ax.barh(labels, sizes, left=left, color=colour, label=category, edgecolor="white", linewidth=0.6)
        if len(labels) == 1 and sizes[0] > 0.04 * sum(bills[labels[0]].values()):  # else there is no room
            middle = left[0] + sizes[0] / 2
            ax.text(middle, 0, f"{sizes[0]:.3g}", ha="center", va="center", color="white", fontsize=9)
        left += sizes
    for y, (label, total) in enumerate(zip(labels, left, strict=True)):
        number = total if peaks is None else peaks.get(label, total)
        text = f"{number:,.0f}" if number >= 100 else f"{number:{'.1f' if 10 <= left.max() < 100 else '.3g'}}"
        text = f"peak {text}" if peaks and label in peaks else text
        if cards:
            ax.text(1.01, y, text, va="center", fontsize=9, transform=ax.get_yaxis_transform())
        else:
            ax.text(total + 0.012 * left.max(), y, text, va="center", fontsize=9)
    several = not isinstance(capacity, tuple)
    for (name, amount), style in zip(cards, cycle(("--", ":", "-.")), strict=False):
        ax.axvline(amount, color="black", linestyle=style, linewidth=1, label=name)
        if several:  # each at the upper end of its line
            ax.text(amount, 1.01, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=9)
    if peaks is not None:
        ax.plot(list(peaks.values()), list(peaks), "|", color="black", markersize=9, markeredgewidth=2, label="peak")
    ax.invert_yaxis()
    ax.set_xlim(0, (1.03 if cards else 1.13) * max(left.max(), *(amount for _, amount in cards), 0))
    ax.set_xlabel(unit)
    # Above the bars and clear of them, whatever their length.
    found = zip(*ax.get_legend_handles_labels(), strict=True)
    parts = [entry for entry in found if not (several and entry[1] in dict(cards))]
    ax.legend(
        *zip(*parts, strict=True), loc="lower left", bbox_to_anchor=(0, 1.07 if cards and several else 1.0), ncols=6,
        fontsize=9, handlelength=1.0, columnspacing=1.2,
    )  # fmt: skip
    return ax


def step_over_time(
    timeline: Sequence[Any], ticks: Mapping[str, str], waiting: int = 0, beside: int = 0,
    other: tuple[str, str, Sequence[Any]] | None = None,
) -> Axes:  # fmt: skip
    r"""Activations and gradients at each moment of a training step, and both together with their highest point, in MB.

    timeline: `Point`s of a `Breakdown`. ticks: label of a moment -> what the axis calls it, the first being where the
    picture begins; "" is the last moment; at those between a dot says what activations are kept. waiting: bytes of a
    gradient that waits for another share, as a tied embedding's does. A timeline has it among the activations: what
    comes and goes in that very size is drawn among the gradients. beside: bytes of weights and states, which are not
    drawn; the highest point's label adds them. other: the names of this step and of a second one, and the second's
    timeline; then there is one line for each step, of both together, stretched to the same ticks, the second in grey.
    Each line has its name beside it, and the axes no legend.
    """
    ax, at = axes(), _moments(timeline, ticks)
    activations, gradients = _parts(timeline, waiting)
    together = activations + gradients
    if other:
        lines = [(other[0], together, "black", "-")]
    else:
        lines = [
            ("activations", activations, MEMORY_COLOURS["activations"], "-"),
            ("gradients", gradients, MEMORY_COLOURS["gradients"], "-"),
            ("together", together, "black", "--"),
        ]
    for name, amount, colour, style in lines:
        x = np.arange(at[0], len(amount))
        width, order = (1, 1.9) if colour == "black" else (1.5, 2)  # beneath the others, which it would hide
        ax.plot(x, amount[at[0] :] / 1e6, style, color=colour, linewidth=width, zorder=order, label=name)
    for moment in at[1:-1] if not other else ():
        kept = activations[moment] / 1e6
        ax.plot(moment, kept, "o", color=MEMORY_COLOURS["activations"])
        ax.annotate(f"{kept:.0f} MB kept  ", (moment, kept), ha="right", va="center")
    _peak(ax, together.argmax(), together.max(), beside, va="bottom" if other else "center")
    if other:
        _, name, points = other
        first, *_ = there = _moments(points, ticks)
        x = np.interp(np.arange(first, len(points)), there, at)
        total = np.array([point.activations + point.gradients for point in points])[first:]
        ax.plot(x, total / 1e6, color="grey", linewidth=1, label=name)
        _peak(ax, x[total.argmax()], total.max(), beside, "grey")
    ax.set_xticks(at, list(ticks.values()))
    ax.set_xlabel("moments of the step, in order")
    ax.set_ylabel("MB, beside weights and states")
    return _named(ax, at)


#: Where a line of `step_over_time` has its name, in ticks of the axis from the first.
_NAMED = {"activations": 0.5, "gradients": 1.8, "together": 1.5}


def _named(ax: Axes, at: Sequence[int]) -> Axes:
    lines = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    for line in lines:
        place = min(_NAMED.get(str(line.get_label()), 1.3), len(at) - 1)
        x = np.interp(place, np.arange(len(at)), at)
        first = len(ax.texts)
        name_points(ax, [(str(line.get_label()), (x, np.interp(x, *line.get_xydata().T)))], size=10)
        ax.texts[first].set_color(line.get_color())
    return ax


def _peak(ax: Axes, moment: float, most: float, beside: float, colour: str = "black", va: str = "center") -> None:
    r"""A dot at the highest point of a step, and what is there, in MB: with what is there besides, and the sum."""
    most, beside = most / 1e6, beside / 1e6
    text = f"{most:.0f} + {beside:.0f} = {most + beside:.0f}" if beside else f"{most:.0f} MB"
    ax.plot(moment, most, "o", color=colour)
    above = 6 if va == "bottom" else 0  # points: free of a line that comes down to the dot
    ax.annotate(f"{text}  ", (moment, most), xytext=(0, above), textcoords="offset points", ha="right", va=va,
                color=colour)  # fmt: skip


def _moments(timeline: Sequence[Any], ticks: Mapping[str, str]) -> list[int]:
    r"""Where in the timeline the ticks stand."""
    labels = [point.label for point in timeline]
    return [labels.index(label) if label else len(labels) - 1 for label in ticks]


def _parts(timeline: Sequence[Any], waiting: int) -> tuple[np.ndarray, np.ndarray]:
    r"""At each moment: activations, and gradients with the one that waits, which the timeline has among the others."""
    both = np.array([point.activations for point in timeline])
    change = np.diff(both, prepend=0)
    waits = np.where(waiting and abs(change) == waiting, change, 0).cumsum()
    return both - waits, np.array([point.gradients for point in timeline]) + waits
