r"""Pictures of what trains inside a model: kinds of tensors by layer, masks, and the nodes that are split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from coursekit.plots.common import COLOURS, axes

LEARNER, FROZEN = COLOURS[1], "#c9d2d8"


def shares(values: Mapping[str, Mapping[str, float]], ax: Axes | None = None) -> Axes:
    r"""A share for each method (row) and kind of tensor (column), as a colour with the number written in.

    values: method -> kind of tensor by its path in a block -> share, from 0 to 1. A share of 0 is left white.
    """
    numbers = np.array([list(row.values()) for row in values.values()], dtype=float)
    ax = axes(ax, figsize=(3.0 + 0.85 * numbers.shape[1], 1.3 + 0.38 * len(numbers)))
    shown = np.ma.masked_equal(numbers, 0)
    ax.imshow(shown, cmap="Blues", vmin=-0.1 * numbers.max(), vmax=numbers.max(), aspect="auto")
    for i, j in zip(*np.nonzero(numbers), strict=True):
        colour = "white" if numbers[i, j] > 0.6 * numbers.max() else "black"
        ax.text(j, i, f"{numbers[i, j]:.1%}", ha="center", va="center", fontsize=9, color=colour)
    kinds = [kind.removeprefix("attention.self.").replace(".", "\n") for kind in next(iter(values.values()))]
    ax.set_xticks(range(len(kinds)), kinds, fontsize=9)
    ax.set_yticks(range(len(values)), list(values))
    ax.set_xlabel("tensors of the blocks")
    ax.set_ylabel("what trains")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def masks(chosen: Mapping[str, Any]) -> Sequence[Axes]:
    r"""Masks of one matrix side by side, each entry a point: dark trains. Under each, how many entries that are.
    Rows are outputs, columns inputs.

    chosen: label -> boolean array (out, in).
    """
    panels = plt.subplots(1, len(chosen), figsize=(2.6 * len(chosen), 3.1), squeeze=False)[1]
    panels = panels[0]
    for ax, (label, mask) in zip(panels, chosen.items(), strict=True):
        mask = np.asarray(mask, dtype=bool)
        # A point for each entry that trains: an image this fine would lose single ones.
        row, column = np.nonzero(mask)
        ax.scatter(column, row, s=1.5, color=COLOURS[0], linewidths=0)
        ax.set_xlim(-0.5, mask.shape[1] - 0.5)
        ax.set_ylim(mask.shape[0] - 0.5, -0.5)
        ax.set_aspect("equal")
        ax.set_title(label)
        ax.set_xlabel(f"inputs\n({mask.sum():,} of {mask.size:,} entries)", fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(True)
    panels[0].set_ylabel("outputs", fontsize=9)
    return panels


def node_changes(changes: Sequence[float], learners: Sequence[int], ax: Axes | None = None) -> Axes:
    r"""How far priming moved each node of a layer, in order of size, and which of them are learners.

    changes: L1 norm of each node's change, by the number of the node. learners: numbers of nodes.
    """
    ax = axes(ax, figsize=(7.0, 2.8))
    changes = np.asarray(changes, dtype=float)
    learns = np.isin(np.arange(len(changes)), np.asarray(learners, dtype=int))
    order = np.argsort(-changes, kind="stable")
    place = np.arange(1, len(changes) + 1)
    for wanted, colour, label in ((True, LEARNER, "learners"), (False, FROZEN, "frozen")):
        these = learns[order] == wanted
        ax.bar(place[these], changes[order][these], width=1.0, color=colour, label=f"{label}: {these.sum()}")
    ax.set_xlim(0, len(changes) + 1)
    ax.set_xlabel("nodes, the ones that moved most first")
    ax.set_ylabel("L1 norm of the change")
    ax.legend(loc="upper right", fontsize=9)
    return ax


#: Where the stages of `permutation` stand, from left to right.
_STAGES = ("dense layer", "split", "concatenated", "permuted back")


def permutation(nodes: int, learners: Sequence[int], ax: Axes | None = None) -> Axes:
    r"""The way of each output through a layer that is split: dense, two layers, side by side, in the old order.

    nodes: outputs of the layer. learners: those that train, in the order of their sub-layer.
    """
    frozen = [node for node in range(nodes) if node not in set(learners)]
    order = [*learners, *frozen]
    ax = axes(ax, figsize=(7.4, 0.9 + 0.3 * nodes))
    gap = 0.8  # between the two sub-layers
    heights = [
        {node: float(node) for node in range(nodes)},
        {node: place + (gap if place >= len(learners) else 0) - gap / 2 for place, node in enumerate(order)},
        {node: float(place) for place, node in enumerate(order)},
        {node: float(node) for node in range(nodes)},
    ]
    for stage, (name, at) in enumerate(zip(_STAGES, heights, strict=True)):
        x = 2.0 * stage
        for node, y in at.items():
            learns = node in set(learners)
            ax.add_patch(plt.Rectangle((x, y - 0.4), 0.8, 0.8, color=LEARNER if learns else FROZEN))
            ax.text(x + 0.4, y, str(node), ha="center", va="center", fontsize=9)
            if stage + 1 < len(heights):
                ax.plot(
                    [x + 0.82, x + 1.98], [y, heights[stage + 1][node]], linewidth=0.9,
                    color=LEARNER if learns else "#8a9aa5",
                )  # fmt: skip
        ax.text(x + 0.4, -1.2, name, ha="center", va="bottom", fontsize=10)
    ax.legend(
        handles=[Patch(color=LEARNER, label="learner"), Patch(color=FROZEN, label="frozen")],
        loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2, fontsize=9, handlelength=1.0,
    )  # fmt: skip
    ax.set_xlim(-0.2, 2.0 * (len(heights) - 1) + 1.0)
    ax.set_ylim(nodes + 0.3, -1.7)
    ax.axis("off")
    return ax


def moved_and_matters(
    moved: Mapping[str, float], matters: Mapping[str, float], ax: Axes | None = None
) -> Axes:
    r"""For each kind of parameter, a dot: how far training moved it, and how far the outputs move when it is put back.

    moved, matters: kind -> number, the same kinds.
    """
    ax = axes(ax, figsize=(7.0, 4.0))
    ax.scatter(list(moved.values()), [matters[kind] for kind in moved], color=COLOURS[0], zorder=3, clip_on=False)
    ax.set_xlim(0, 1.28 * max(moved.values()))
    # Names stand left of the dots that moved less, right of the others, and of the first, which may stand at 0.
    for place, (kind, x) in enumerate(sorted(moved.items(), key=lambda item: item[1])):
        left = 0 < place < len(moved) / 2
        ax.annotate(kind, (x, matters[kind]), xytext=(-7 if left else 7, 0), textcoords="offset points",
                    ha="right" if left else "left", va="center", fontsize=9)  # fmt: skip
    ax.set_xlabel("length of the change of all biases of a kind in training")
    ax.set_ylabel("mean change of the logit difference\nwhen the kind is put back")
    return ax


__all__ = ["masks", "moved_and_matters", "node_changes", "permutation", "shares"]
