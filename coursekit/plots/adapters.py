r"""Pictures of an adapter, of where adapters stand in a block, and of what pruning leaves of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from coursekit.plots import alt
from coursekit.plots.common import COLOURS, FROZEN, LINE, TRAINED, axes, without_axes

if TYPE_CHECKING:
    from torch import Tensor


def bottleneck(d: int, r: int) -> Axes:
    r"""A bottleneck adapter from left to right: of width d, r and d, with heights to scale, what trains in orange."""
    ax = axes(figsize=(7.0, 2.9))
    columns = [
        (0.0, d, COLOURS[0], f"h: {d}"),
        (2.0, r, COLOURS[0], f"{r}"),
        (2.6, r, COLOURS[0], f"{r}"),
        (4.6, d, COLOURS[0], f"{d}"),
    ]
    for x, height, colour, text in columns:
        ax.add_patch(plt.Rectangle((x - 0.06, -height / 2), 0.12, height, color=colour))
        ax.text(x, -height / 2 - 0.03 * d, text, ha="center", va="top", fontsize=9)
    for left, right, text in ((0, 1, f"$W_{{down}}$\n{r} × {d}"), (1, 2, "σ"), (2, 3, f"$W_{{up}}$\n{d} × {r}")):
        (x0, h0, *_), (x1, h1, *_) = columns[left], columns[right]
        x0, x1 = x0 + 0.06, x1 - 0.06
        corners = [(x0, h0 / 2), (x1, h1 / 2), (x1, -h1 / 2), (x0, -h0 / 2)]
        ax.add_patch(plt.Polygon(corners, color=COLOURS[1] if left != 1 else "#d9cfe8"))
        y = 0.0 if left != 1 else r / 2 + 0.06 * d
        ax.text((x0 + x1) / 2, y, text, ha="center", va="center", fontsize=11)
    ax.annotate("", (5.3, 0), (4.68, 0), arrowprops=dict(arrowstyle="->", color="black"))
    ax.text(5.0, 0.03 * d, "A(h)", ha="center", va="bottom", fontsize=9)
    ax.text(5.42, 0, "+", ha="center", va="center", fontsize=16)
    top = 0.62 * d
    ax.plot([0, 0, 5.42], [d / 2 + 0.02 * d, top, top], color="black", linewidth=1)
    ax.annotate("", (5.42, 0.09 * d), (5.42, top), arrowprops=dict(arrowstyle="->", color="black"))
    ax.text(2.3, top + 0.03 * d, "residual: h itself", ha="center", va="bottom", fontsize=9)
    ax.annotate("", (6.0, 0), (5.54, 0), arrowprops=dict(arrowstyle="->", color="black"))
    return without_axes(ax, (-0.4, 6.1), (-0.62 * d, 0.78 * d))


#: Rows and columns of points that a matrix is drawn with.
_POINTS = (16, 24)
#: Of a block of `HoulsbyAdapter`, in the order of its projections.
_MATRICES = ("attention, W_down", "attention, W_up", "feed-forward, W_down", "feed-forward, W_up")


def kept_where(masks: Mapping[str, Sequence[Tensor]]) -> Sequence[Axes]:
    r"""The weights that stay of all matrices of a Houlsby adapter, one panel a score: a tile is a matrix, and across it
    runs a unit of its bottleneck. The shares of the emptiest and of the fullest matrix stand in them.

    masks: score -> for each block W_down (r, d) and W_up (d, r) behind attention, then behind the feed-forward; true
    where a weight stays.
    """
    figure, grid = plt.subplots(1, len(masks), figsize=(1.4 + 3.1 * len(masks), 3.1), sharey=True, squeeze=False)
    panels = list(grid[0])
    rows, columns = _POINTS
    for ax, (name, own) in zip(panels, masks.items(), strict=True):
        blocks = len(own) // len(_MATRICES)
        tiles = [_points(W.T if i % 2 else W) for i, W in enumerate(own)]
        drawn = np.block([tiles[i :: len(_MATRICES)] for i in range(len(_MATRICES))])
        picture = ax.imshow(100 * drawn, cmap="Blues", vmin=0, vmax=60, aspect="auto", interpolation="nearest")
        share = [100 * W.float().mean().item() for W in own]
        for i, one in ((share.index(end), end) for end in (min(share), max(share))):
            at = ((i // len(_MATRICES) + 0.5) * columns - 0.5, (i % len(_MATRICES) + 0.5) * rows - 0.5)
            ax.text(*at, f"{one:.0f} %", ha="center", va="center", fontsize=8,
                    bbox=dict(facecolor="white", edgecolor="none", pad=1, alpha=0.8))  # fmt: skip
        for line in range(1, blocks):
            ax.axvline(line * columns - 0.5, color="black", linewidth=0.8)
        for line in range(1, len(_MATRICES)):
            ax.axhline(line * rows - 0.5, color="black", linewidth=0.8)
        ax.set_xticks([(b + 0.5) * columns - 0.5 for b in range(blocks)], range(1, blocks + 1))
        ax.set_xlabel("block")
        names = [re.sub(r"W_(\w+)", r"$W_{\1}$", matrix) for matrix in _MATRICES]
        ax.set_yticks([(i + 0.5) * rows - 0.5 for i in range(len(_MATRICES))], names)
        ax.tick_params(length=0)
        ax.set_title(f"what stays, by {name}")
    figure.colorbar(picture, ax=panels, label="weights that stay (%)", extend="max", aspect=30)
    alt.says(figure, " ".join(_where(name, own) for name, own in masks.items()))
    return panels


def _points(mask: Tensor) -> np.ndarray:
    r"""Of each point of the picture the share of its weights that stay."""
    rows, columns = _POINTS
    return np.array(
        [
            [part.mean() for part in np.array_split(strip, columns, axis=1)]
            for strip in np.array_split(mask.cpu().numpy(), rows)
        ]
    )


def _where(name: str, masks: Sequence[Tensor]) -> str:
    share = [100 * W.float().mean().item() for W in masks]
    low, high = (share.index(find(share)) for find in (min, max))
    fewest, most = (f"block {i // len(_MATRICES) + 1}, {_MATRICES[i % len(_MATRICES)]}" for i in (low, high))
    return f"By {name} {share[low]:.0f} to {share[high]:.0f} % of a matrix stay: fewest in {fewest}, most in {most}."


#: What each picture says in words.
_FLOWS = {
    "Houlsby": "from the bottom up attention, +, LN, feed-forward, + and LN, as in all panels; "
    "A reads the output of attention and that of the feed-forward, and is added to it",
    # What A reads here is an exercise of the notebook, whose answer has it in words.
    "Pfeiffer": "A is beside the feed-forward's output, and is added to it; follow the arrows to what it reads",
    "parallel": "A reads what the feed-forward reads, and is added to the feed-forward's output, times s",
    "Lin": "A reads the block's output after a norm of its own, and is added to it",
}


def adapter_places() -> Sequence[Axes]:
    r"""The data flow of a block with norms after the sums (BERT), from the bottom up, with four kinds of adapters.

    Frozen parts are grey, trained ones coloured. The lines on the left are the sublayers' residuals; the straight
    line in the middle carries what the sublayer (in Lin's: the block) gave, to which A's output is added.
    """
    panels = plt.subplots(1, len(_FLOWS), figsize=(7.8, 5.4))[1]
    for ax, (name, flow) in zip(panels, _FLOWS.items(), strict=True):
        _block(ax)
        {"Houlsby": _houlsby, "Pfeiffer": _pfeiffer, "parallel": _parallel, "Lin": _lin}[name](ax)
        ax.set_title(name)
        without_axes(ax, (-1.3, 1.75), (-0.3, 12.9))
        alt.says(ax, flow)
    return panels


def _box(ax: Axes, x: float, y: float, text: str, trained: bool = False, width: float = 1.55) -> None:
    r"""From y to y + 0.5, around x."""
    ax.add_patch(plt.Rectangle((x - width / 2, y), width, 0.5, color=TRAINED if trained else FROZEN))
    ax.text(x, y + 0.25, text, ha="center", va="center", fontsize=8.5)


def _path(ax: Axes, *points: tuple[float, float]) -> None:
    r"""A line through the points, with a head at the last."""
    ax.plot(*zip(*points, strict=True), color=LINE, linewidth=1)
    ax.annotate("", points[-1], points[-2], arrowprops=dict(arrowstyle="->", color=LINE, shrinkA=0, shrinkB=0))


def _plus(ax: Axes, x: float, y: float) -> None:
    ax.plot([x], [y], "o", markersize=11, markerfacecolor="white", markeredgecolor=LINE, zorder=3)
    ax.text(x, y, "+", ha="center", va="center", fontsize=10, zorder=4)


def _block(ax: Axes) -> None:
    r"""Attention and feed-forward, each with its residual on the left, its sum and its norm."""
    _path(ax, (0, 0), (0, 0.7))
    _box(ax, 0, 0.7, "attention")
    _path(ax, (0, 1.2), (0, 3.2))
    _box(ax, 0, 3.8, "LN")
    _path(ax, (0, 3.4), (0, 3.8))
    _path(ax, (0, 4.3), (0, 5.1))
    _box(ax, 0, 5.1, "feed-forward")
    _path(ax, (0, 5.6), (0, 8.5))
    _path(ax, (0, 8.7), (0, 9.1))
    _box(ax, 0, 9.1, "LN")
    _path(ax, (0, 9.6), (0, 12.6))
    for start, end in ((0.3, 3.4), (4.7, 8.7)):
        _path(ax, (0, start), (-1.1, start), (-1.1, end), (-0.14, end))
        _plus(ax, 0, end)
    ax.text(-0.1, 0.02, "x", ha="right", va="bottom", fontsize=9)
    ax.text(-0.1, 4.75, "x", ha="right", va="bottom", fontsize=9)
    ax.text(-0.1, 1.35, "h", ha="right", va="bottom", fontsize=9)
    ax.text(-0.1, 5.75, "h", ha="right", va="bottom", fontsize=9)


def _houlsby(ax: Axes) -> None:
    for start, bottom, end in ((1.5, 1.9, 2.75), (5.9, 6.9, 7.9)):
        _path(ax, (0, start), (1.1, start), (1.1, bottom))
        _box(ax, 1.1, bottom, "A", True, 0.7)
        _path(ax, (1.1, bottom + 0.5), (1.1, end), (0.14, end))
        _plus(ax, 0, end)


def _pfeiffer(ax: Axes) -> None:
    _path(ax, (0, 4.7), (1.1, 4.7), (1.1, 5.76))
    _path(ax, (0, 5.9), (0.96, 5.9))
    _plus(ax, 1.1, 5.9)
    _path(ax, (1.1, 6.05), (1.1, 6.3))
    _box(ax, 1.1, 6.3, "LN", width=0.7)
    _path(ax, (1.1, 6.8), (1.1, 7.05))
    _box(ax, 1.1, 7.05, "A", True, 0.7)
    _path(ax, (1.1, 7.55), (1.1, 7.9), (0.14, 7.9))
    _plus(ax, 0, 7.9)


def _parallel(ax: Axes) -> None:
    _path(ax, (0, 4.7), (1.25, 4.7), (1.25, 5.1))
    _box(ax, 1.25, 5.1, "A", True, 0.7)
    _path(ax, (1.25, 5.6), (1.25, 7.9), (0.14, 7.9))
    ax.text(1.3, 6.6, "× s", ha="left", va="center", fontsize=9)
    _plus(ax, 0, 7.9)


def _lin(ax: Axes) -> None:
    _path(ax, (0, 9.9), (1.1, 9.9), (1.1, 10.2))
    _box(ax, 1.1, 10.2, "new LN", True, 1.2)
    _path(ax, (1.1, 10.7), (1.1, 11.0))
    _box(ax, 1.1, 11.0, "A", True, 0.7)
    _path(ax, (1.1, 11.5), (1.1, 12.0), (0.14, 12.0))
    _plus(ax, 0, 12.0)
