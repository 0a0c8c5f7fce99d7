r"""Pictures of learning from a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from coursekit.plots.common import COLOURS, axes


def shares(curves: Mapping[str, Sequence[float]], *, colours: Sequence[str] = COLOURS) -> Axes:
    r"""Shares of answers over the steps of a training, a line for each label; the second is dashed: it may hide one."""
    ax = axes(figsize=(7.0, 3.4))
    for colour, form, (label, values) in zip(colours, ("o-", "s--", "D-", "^-"), curves.items(), strict=False):
        ax.plot(range(1, len(values) + 1), values, form, markersize=4, color=colour, label=label)
    ax.set_ylim(-0.03, 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step")
    ax.set_ylabel("share")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(curves))  # above, where it hides no line
    return ax


def clipped(ratio: Sequence[float], earned: Mapping[float, Sequence[float]], epsilon: float) -> Sequence[Axes]:
    r"""What a token earns, over how much likelier it has become since it was drawn: a panel for each advantage.

    earned: advantage -> one value for each of `ratio`. Dashed: ratio times advantage, without the clip. A pale band
    lies where the clip holds: behind 1 + epsilon for a good answer, before 1 - epsilon for a bad one.
    """
    _, panels = plt.subplots(1, len(earned), figsize=(8.2, 3.0), squeeze=False)
    for ax, (A, values) in zip(panels[0], earned.items(), strict=True):
        band = (1 + epsilon, max(ratio)) if A > 0 else (min(ratio), 1 - epsilon)
        ax.axvspan(*band, color="#e9ecee", linewidth=0)
        ax.text(sum(band) / 2, 0.04, "no gradient", transform=ax.get_xaxis_transform(), ha="center", fontsize=9)
        ax.plot(ratio, [A * r for r in ratio], color="grey", linestyle="--", linewidth=1, label="without the clip")
        ax.plot(ratio, values, color=COLOURS[0], label="with it")
        ax.plot([1], [A], "o", color=COLOURS[2], label="when drawn")
        ax.set_title(f"advantage {A:+g}".replace("-", "−"))
        ax.set_xticks([min(ratio), 1 - epsilon, 1, 1 + epsilon, max(ratio)])
        ax.set_xlabel("ratio: likelihood now / when drawn")
    panels[0][0].set_ylabel("ratio × advantage, clipped")
    panels[0][0].legend(loc="upper left")
    return panels[0]


def parts(bars: Mapping[str, Mapping[str, float]]) -> Axes:
    r"""A stacked bar from 0 to 1 for each entry (label -> part -> share), with the number of each part that has room.

    The last part is what is left, in grey; the one before it has the colour of `shares`' "right among eight".
    """
    ax, left = axes(figsize=(8.2, 1.2 + 0.5 * len(bars))), dict.fromkeys(bars, 0.0)
    names = list(next(iter(bars.values())))
    for name, colour in zip(names, (COLOURS[0], COLOURS[1], COLOURS[4], COLOURS[3], "#d9dde0"), strict=True):
        sizes = [bar[name] for bar in bars.values()]
        ax.barh(list(bars), sizes, 0.6, left=list(left.values()), color=colour, label=name, edgecolor="white")
        for y, (label, size) in enumerate(zip(bars, sizes, strict=True)):
            if size >= 0.04:
                colours = {"color": "white" if colour == COLOURS[0] else "black", "fontsize": 9}
                ax.text(left[label] + size / 2, y, f"{size:.2f}", ha="center", va="center", **colours)
            left[label] += size
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the drawn answers")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, handlelength=1.0, columnspacing=1.2)
    return ax
