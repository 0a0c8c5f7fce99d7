r"""Pictures of intrinsic dimension: how far training comes along so many directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from coursekit.plots.common import COLOURS, axes


def accuracy_by_directions(
    curves: Mapping[str, Mapping[int, Sequence[float]]],
    full: float,
    nothing: Mapping[str, float],
    share: float = 0.9,
    beside: Mapping[int, float] | None = None,
    label: str = "accuracy",
    ax: Axes | None = None,
) -> Axes:
    r"""Accuracy against the number d that train: a dot for each run, a line through the means of each curve.

    curves: label -> d -> accuracy of each seed. Lines join means of equally many runs: where a d has fewer than the
    others, its dots are hollow and the line leaves it out. full: what training all weights of the blocks reaches; a
    line is drawn at `share` of it, and a circle around the first mean of each curve that is on it or above. nothing:
    label -> an accuracy where no weight of the body moves, a line each. beside: d -> accuracy of single runs made just
    now, as crosses. label: of the accuracies.
    """
    ax = axes(ax)
    ring = None
    most = max(len(runs) for curve in curves.values() for runs in curve.values())
    percent = f"{share * 100:g} %"
    for i, (colour, (name, curve)) in enumerate(zip(COLOURS, curves.items(), strict=False)):
        d = [n for n in sorted(curve) if len(curve[n]) == most]
        aside = 1.08 ** (i - (len(curves) - 1) / 2)  # dots of the same d side by side
        means = [float(np.mean(curve[n])) for n in d]
        ax.plot([n * aside for n in d], means, "-", color=colour, linewidth=1.4, label=name)
        for n, runs in curve.items():
            inside = colour if n in d else "white"
            ax.plot([n * aside] * len(runs), runs, "o", color=colour, mfc=inside, markersize=4, alpha=0.6)
        reached = [(n, mean) for n, mean in zip(d, means, strict=True) if mean >= share * full]
        if reached:
            (ring,) = ax.plot(
                reached[0][0] * aside, reached[0][1], "o", color=colour, markersize=14, fillstyle="none"
            )
    if ring is not None:
        ax.plot(
            [],
            [],
            "o",
            color="grey",
            markersize=11,
            fillstyle="none",
            label=f"first tried d above the {percent} line",
        )
    if beside:
        ax.plot(list(beside), list(beside.values()), "x", color="black", markersize=8, label="this run")
    if any(len(runs) < most for curve in curves.values() for runs in curve.values()):
        ax.plot([], [], "o", color="grey", mfc="white", markersize=4, label="fewer runs than elsewhere")
    for text, height in {
        "all weights of the blocks": full,
        f"{percent} of it": share * full,
        **nothing,
    }.items():
        ax.axhline(height, color="grey", linestyle=":", linewidth=1)
        ax.annotate(text, (1.0, height), xycoords=("axes fraction", "data"), xytext=(4, 0), va="center",
                    textcoords="offset points", fontsize=9, color="grey")  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("directions that train, d")
    ax.margins(y=0.12)
    ax.set_ylabel(label)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, fontsize=9)
    return ax
