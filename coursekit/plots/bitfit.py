r"""Pictures of what trains inside a model: biases, masks, the nodes that are split, and the products of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from coursekit.plots.alt import says
from coursekit.plots.common import COLOURS, LINE, TRAINED, arrow, axes, box, without_axes

LEARNER, FROZEN = COLOURS[1], "#c9d2d8"
#: Of a block of BERT, from left to right: left end and middle of a part, its name, whether it has a bias; at "⊕"
#: ends a residual.
_BLOCK = (
    (0.9, 2.0, "$W_q$", True), (0.9, 1.2, "$W_k$", True), (0.9, 0.4, "$W_v$", True), (3.1, 1.2, "attention", False),
    (4.9, 1.2, "$W_o$", True), (6.9, 1.2, "⊕", False), (7.5, 1.2, "norm", True), (9.7, 1.2, "$W_{up}$", True),
    (11.75, 1.2, "GELU", False), (13.0, 1.2, "$W_{down}$", True), (15.0, 1.2, "⊕", False), (15.6, 1.2, "norm", True),
)  # fmt: skip


def biases(d: int, wide: int) -> Axes:
    r"""The biases of a block of BERT, from left to right, each beside the frozen part that it belongs to.

    d: numbers of a token. wide: outputs of the feed-forward part's first matrix.
    """
    ax = axes(figsize=(8.4, 2.1))
    ax.text(0.1, 1.2, "x", ha="right", va="center", fontsize=12)
    ways = []
    for x, y, name, has_bias in _BLOCK:
        if name == "⊕":
            ax.text(x + 0.15, y, name, ha="center", va="center", fontsize=15)
            right = x + 0.3
        else:
            right = x + (1.4 if name == "attention" else 0.9)
            box(ax, x, y - 0.3, right - x, 0.6, name)
        if has_bias:
            box(ax, right, y - 0.3, 0.75, 0.6, str(wide if "up" in name else d), TRAINED, 8)
            right += 0.75
        ways.append((x, right, y))
    for x, right, y in ways[:3]:
        arrow(ax, 0.2, 1.2, x, y)
        arrow(ax, right, y, 3.1, 1.2 + 0.25 * (y - 1.2))
    for (_, right, y), (x, _, _) in pairwise(ways[3:]):
        arrow(ax, right, y, x, y)
    arrow(ax, ways[-1][1], 1.2, 17.75, 1.2)
    for left, plus in ((0.5, 7.05), (9.4, 15.15)):
        ax.plot([left, left, plus], [1.2, 2.75, 2.75], color=LINE, linewidth=1)
        arrow(ax, plus, 2.75, plus, 1.35)
        ax.text((left + plus) / 2, 2.8, "residual", ha="center", va="bottom", fontsize=8, color=LINE)
    says(
        ax,
        f"A block from left to right, each frozen part with the length of its trained bias: W_q, W_k and W_v {d} each, "
        f"attention none, W_o {d}, norm {d}, W_up {wide}, GELU none, W_down {d}, norm {d}: {7 * d + wide} in all",
    )
    return without_axes(ax, (-0.4, 17.9), (-0.05, 3.3))


def masks(chosen: Mapping[str, Any]) -> Sequence[Axes]:
    r"""Masks of one matrix side by side, each entry a point: dark trains. Rows are outputs, columns inputs.

    chosen: label -> boolean array (out, in).
    """
    panels = plt.subplots(1, len(chosen), figsize=(1.95 * len(chosen), 2.4), squeeze=False)[1]
    panels = panels[0]
    for ax, (label, mask) in zip(panels, chosen.items(), strict=True):
        mask = np.asarray(mask, dtype=bool)
        # A point for each entry that trains: an image this fine would lose single ones.
        row, column = np.nonzero(mask)
        ax.scatter(column, row, s=1, color=COLOURS[0], linewidths=0)
        ax.set_xlim(-0.5, mask.shape[1] - 0.5)
        ax.set_ylim(mask.shape[0] - 0.5, -0.5)
        ax.set_aspect("equal")
        ax.set_title(label, fontsize=10, loc="center")
        ax.set_xlabel("inputs", fontsize=9)
        says(ax, f"{mask.sum():,} of {mask.size:,} entries")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(True)
    panels[0].set_ylabel("outputs", fontsize=9)
    return panels


#: Where the stages of `permutation` stand, from left to right.
_STAGES = ("dense layer", "split", "concatenated", "permuted back")


def permutation(nodes: int, learners: Sequence[int]) -> Axes:
    r"""The way of each output through a layer that is split: dense, two layers, side by side, in the old order.

    nodes: outputs of the layer. learners: those that train, in the order of their sub-layer.
    """
    frozen = [node for node in range(nodes) if node not in set(learners)]
    order = [*learners, *frozen]
    ax = axes(figsize=(7.4, 0.9 + 0.3 * nodes))
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
    return without_axes(ax, (-0.2, 2.0 * (len(heights) - 1) + 1.0), (nodes + 0.3, -1.7))


#: The products of a block in a training step, from left to right.
_PRODUCTS = ("forward", "gradient passed on", "gradient of the matrices")


def products(plans: Mapping[str, Sequence[str]], shares: Sequence[float]) -> Axes:
    r"""Which products each block has in a training step: a tower of blocks for each plan, three cells a block.

    plans: label -> what trains in each block, the lowest first: "nothing", "biases" or "matrices". shares: the number
    under each tower, its share of all products.
    """
    colours, depth = (FROZEN, COLOURS[0], COLOURS[1]), max(len(blocks) for blocks in plans.values())
    ax = axes(figsize=(1.5 + 1.4 * len(plans), 1.4 + 0.22 * depth))
    for tower, ((name, blocks), share) in enumerate(zip(plans.items(), shares, strict=True)):
        for height, block in enumerate(blocks):
            passed = any(below != "nothing" for below in blocks[: height + 1])
            for cell, made in enumerate((True, passed, block == "matrices")):
                ax.add_patch(plt.Rectangle(
                    (4.2 * tower + cell, height), 0.88, 0.82, linewidth=0.6, edgecolor="#8a9aa5",
                    facecolor=colours[cell] if made else "white",
                ))  # fmt: skip
        ax.text(4.2 * tower + 1.44, depth + 0.2, name, ha="center", va="bottom")
        ax.text(4.2 * tower + 1.44, -0.25, f"{share:.2f}", ha="center", va="top")
    for height in (0, depth - 1):
        ax.text(-0.4, height + 0.41, f"block {height + 1}", ha="right", va="center")
    without_axes(ax, (-2.4, 4.2 * len(plans) - 0.9), (-1.2, depth + 1.1))
    handles = [Patch(facecolor=colour, label=name) for colour, name in zip(colours, _PRODUCTS, strict=True)]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, fontsize=9, handlelength=1.0)
    return ax
