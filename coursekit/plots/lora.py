r"""Pictures of LoRA: matrices to scale, singular values, and how far training comes along so many directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from coursekit.plots.common import COLOURS, axes


def accuracy_by_directions(
    curves: Mapping[str, Mapping[int, Sequence[float]]],
    full: float,
    nothing: float,
    share: float = 0.9,
    beside: Mapping[int, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Accuracy against the number d that train: a dot for each run, a line through the means of each curve.

    curves: label -> d -> accuracy of each seed. full: what full fine-tuning reaches; a line is drawn at `share` of it,
    and a circle around the first mean of each curve that is on it or above. nothing: the accuracy where no weight of
    the body moves. beside: d -> accuracy of single runs made just now, as crosses.
    """
    ax = axes(ax)
    for i, (colour, (label, curve)) in enumerate(zip(COLOURS, curves.items(), strict=False)):
        d = sorted(curve)
        aside = 1.08 ** (i - (len(curves) - 1) / 2)  # dots of the same d side by side
        means = [float(np.mean(curve[n])) for n in d]
        ax.plot([n * aside for n in d], means, "-", color=colour, linewidth=1.4, label=label)
        for n in d:
            ax.plot([n * aside] * len(curve[n]), curve[n], "o", color=colour, markersize=4, alpha=0.6)
        reached = [(n, mean) for n, mean in zip(d, means, strict=True) if mean >= share * full]
        if reached:
            ax.plot(reached[0][0] * aside, reached[0][1], "o", color=colour, markersize=14, fillstyle="none")
    if beside:
        ax.plot(list(beside), list(beside.values()), "x", color="black", markersize=8, label="this run")
    lines = ((full, "full fine-tuning"), (share * full, f"{share:.0%} of it"), (nothing, "classifier alone"))
    for height, text in lines:
        ax.axhline(height, color="grey", linestyle=":", linewidth=1)
        ax.annotate(text, (1.0, height), xycoords=("axes fraction", "data"), xytext=(4, 0), va="center",
                    textcoords="offset points", fontsize=9, color="grey")  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("numbers that train, d")
    ax.set_ylabel("accuracy")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(curves) + 1, fontsize=9)
    return ax


def spectrum(values: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Axes:
    r"""Share of the squared length that the first k singular values hold, for each matrix."""
    ax = axes(ax)
    for label, singular in values.items():
        energy = np.cumsum(np.asarray(singular, dtype=float) ** 2)
        k = np.arange(1, len(energy) + 1)
        ax.plot(k, energy / energy[-1], label=label)
    ax.set_xscale("log")
    ax.set_ylim(0, 1.03)
    ax.set_xlabel("number of directions kept, k")
    ax.set_ylabel("share of ‖·‖² kept")
    ax.legend(loc="lower right")
    return ax


def matrices_to_scale(d_out: int, d_in: int, r: int, ax: Axes | None = None) -> Axes:
    r"""W and the two factors of its update, B and A, with areas in proportion to their numbers of parameters."""
    ax = axes(ax, figsize=(7.0, 3.2))
    gap = 0.12 * d_in
    parts = [
        (0.0, 0.0, d_in, d_out, COLOURS[0], f"$W_0$ (frozen)\n{d_out} × {d_in}"),
        (d_in + 2 * gap, 0.0, r, d_out, COLOURS[1], ""),
        (d_in + 2 * gap + r + gap, d_out - r, d_in, r, COLOURS[2], ""),
    ]
    for x, y, width, height, colour, text in parts:
        ax.add_patch(plt.Rectangle((x, y), width, height, color=colour))
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", color="white", fontsize=10)
    ax.text(d_in + gap, d_out / 2, "+", ha="center", va="center", fontsize=16)
    x_a = d_in + 3 * gap + r
    ax.text(d_in + 2 * gap + r / 2, -0.03 * d_out, f"B\n{d_out} × {r}", ha="center", va="top", fontsize=10)
    ax.text(x_a + d_in / 2, d_out - r - 0.03 * d_out, f"A: {r} × {d_in}", ha="center", va="top", fontsize=10)
    ax.set_xlim(-gap / 2, x_a + d_in + gap / 2)
    ax.set_ylim(-0.2 * d_out, 1.03 * d_out)
    ax.set_aspect("equal")
    ax.axis("off")
    return ax
