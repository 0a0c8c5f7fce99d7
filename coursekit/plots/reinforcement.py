r"""Pictures of learning from a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from coursekit.plots.common import COLOURS, axes, name_lines


def shares(curves: Mapping[str, Sequence[float]], *, colours: Sequence[str] = COLOURS) -> Axes:
    r"""Shares of answers over the steps of a training, a line for each label, which stands at its end."""
    ax = axes(figsize=(7.0, 3.0))
    for colour, marker, (label, values) in zip(colours, "osD^", curves.items(), strict=False):
        ax.plot(range(1, len(values) + 1), values, marker=marker, markersize=4, color=colour, label=label)
    ax.set_ylim(-0.03, 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step")
    ax.set_ylabel("share")
    return name_lines(ax)


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
        end = band[int(A > 0)]  # where the clip holds, seen from a ratio of 1
        ax.plot(ratio, [A * r for r in ratio], "--", color="grey", linewidth=1, label="without the clip")
        ax.plot(ratio, values, color=COLOURS[0], label="with the clip")
        ax.plot([1], [A], "o", color=COLOURS[2], label="when drawn")
        flat, inwards = values[-1 if A > 0 else 0], "right" if A > 0 else "left"
        names = [((end, A * end), (-16 * A, 0), inwards), ((sum(band) / 2, flat), (0, -9), "center")]
        names.append(((1, A), (9, -4 * A), "left"))
        for line, (at, aside, ha) in zip(ax.lines, names, strict=True):
            ax.annotate(line.get_label(), at, aside, textcoords="offset points", ha=ha, va="center", fontsize=9,
                        color=line.get_color())  # fmt: skip
        ax.set_title(f"{'good' if A > 0 else 'bad'} answer: advantage {A:+g}".replace("-", "−"))
        ax.set_xticks([min(ratio), 1 - epsilon, 1, 1 + epsilon, max(ratio)])
        ax.set_xlabel("ratio: likelihood now / when drawn")
    panels[0][0].set_ylabel("what the token earns")
    return panels[0]


def gained(
    parts: Sequence[str], runs: Mapping[str, Sequence[Sequence[float]]], rows: Mapping[str, Sequence[str]]
) -> Axes:
    r"""Points that a training brings: a bar for each entry (label -> run -> one number a part) in each of `rows`,
    label -> the parts that it adds up. A bar is as long as the mean of its runs, which is written at the right, and has
    a dot for each run.
    """
    names, high = list(rows), 0.8 / len(runs)
    ax = axes(figsize=(7.6, 1.4 + 0.42 * len(names)))
    beside = ax.get_yaxis_transform()
    ax.text(1.01, -0.75, "mean", transform=beside, va="center", fontsize=9)
    for i, (colour, (label, own)) in enumerate(zip((COLOURS[0], COLOURS[4])[: len(runs)], runs.items(), strict=True)):
        at = [y + (i - (len(runs) - 1) / 2) * high for y in range(len(names))]
        found = [[sum(run[parts.index(part)] for part in some) for some in rows.values()] for run in own]
        means = [sum(values) / len(own) for values in zip(*found, strict=True)]
        ax.barh(at, means, 0.9 * high, color=colour, label=label)
        for y, mean in zip(at, means, strict=True):
            ax.text(1.01, y, f"{mean:+.1f}".replace("-", "−"), transform=beside, va="center", fontsize=9)
        dots = {"s": 14, "color": "white", "edgecolor": "black", "linewidth": 0.6, "zorder": 3}
        ax.scatter([x for run in found for x in run], at * len(own), label="" if i else "each run", **dots)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.axvline(0, color="grey", linewidth=1)
    ax.margins(x=0.08)
    ax.set_xlabel("points of the draws, trained − as released")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(runs) + 1)
    return ax
