r"""Two models beside each other: their training losses, and what each test sentence costs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from coursekit.plots.alt import says
from coursekit.plots.common import COLOURS, axes, loss_curve
from coursekit.plots.hybrid import FAMILIES


def side_by_side(
    losses: Mapping[str, Sequence[float]], nats: Mapping[str, Any], what: str, smooth: int = 3
) -> Sequence[Axes]:
    r"""Two models that learn the same: training losses on the left, each test sentence as a dot on the right.

    losses: label -> one for each step, equally many for both; both have the colour of LoRA's family, and the second is
    dashed. nats: the two labels -> one value for each sentence. what: what the nats are of.
    """
    (one, other), (_, (left, right)) = nats, plt.subplots(1, 2, figsize=(9, 3.4))
    loss_curve(losses, smooth=smooth, ax=left)
    first = len(left.lines) // len(losses)  # lines of the first model: each step, and their mean
    for number, line in enumerate(left.lines):
        line.set(color=FAMILIES["reparameterised"], linestyle="-" if number < first else "--")
    left.legend()
    left.set_title("training loss, same batches")
    right.scatter(np.asarray(nats[one]), np.asarray(nats[other]), s=12, alpha=0.6)
    right.axline((0, 0), slope=1, color="grey", linewidth=1)
    right.set_aspect("equal", adjustable="datalim")  # the diagonal is at 45 degrees, and both axes have one scale
    right.set_xlabel(one)
    right.set_ylabel(other)
    right.set_title(f"{what}, a dot is a test sentence")
    return left, right


def rounded_back(steps: Sequence[float]) -> Axes:
    r"""How far layers' updates take their weights from a level: a stroke each, on a line from that level to the next.

    steps: typical updates with the distance of the two levels as 1. Before the border in the middle all are rounded
    back to where they came from.
    """
    ax = axes(figsize=(8.2, 1.9))
    ax.hlines(0, -0.04, 1.04, color="#d0d0d0", linewidth=1, zorder=0)
    for at, name in ((0, "level of W"), (1, "next level")):
        ax.vlines(at, -0.5, 0.5, color="#444444", linewidth=4)
        ax.text(at, 0.56, name, ha="left" if at == 0 else "right", va="bottom", fontsize=9)
    ax.axvline(0.5, color="#444444", linestyle="--", linewidth=1)
    ax.text(0.49, 0.56, "rounded back", ha="right", va="bottom", fontsize=9)
    ax.text(0.51, 0.56, "rounded on", ha="left", va="bottom", fontsize=9)
    ax.vlines(steps, -0.3, 0.3, color=COLOURS[1], linewidth=0.7)
    ax.text(max(steps) + 0.01, 0.2, "W + ΔW", va="center", fontsize=9, color=COLOURS[1])
    ax.set_ylim(-0.6, 0.95)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("distance from the level, with that of the next level as 1")
    says(ax, f"W + ΔW of {len(steps)} layers from {min(steps):.2g} to {max(steps):.2g}")
    return ax
