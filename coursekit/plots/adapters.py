r"""Pictures of an adapter, and of where adapters stand in a block."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from coursekit.plots import alt
from coursekit.plots.common import COLOURS, axes


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
    for left, right, text in (
        (0, 1, f"$W_{{down}}$\n{r} × {d}"),
        (1, 2, "σ"),
        (2, 3, f"$W_{{up}}$\n{d} × {r}"),
    ):
        (x0, h0, *_), (x1, h1, *_) = columns[left], columns[right]
        x0, x1 = x0 + 0.06, x1 - 0.06
        corners = [(x0, h0 / 2), (x1, h1 / 2), (x1, -h1 / 2), (x0, -h0 / 2)]
        ax.add_patch(plt.Polygon(corners, color=COLOURS[1] if left != 1 else "#d9cfe8"))
        y = 0.0 if left != 1 else r / 2 + 0.06 * d
        ax.text((x0 + x1) / 2, y, text, ha="center", va="center", fontsize=11)
    ax.annotate("", (5.3, 0), (4.68, 0), arrowprops=dict(arrowstyle="->", color="black"))
    ax.text(5.42, 0, "+", ha="center", va="center", fontsize=16)
    top = 0.62 * d
    ax.plot([0, 0, 5.42], [d / 2 + 0.02 * d, top, top], color="black", linewidth=1)
    ax.annotate("", (5.42, 0.09 * d), (5.42, top), arrowprops=dict(arrowstyle="->", color="black"))
    ax.text(2.3, top + 0.03 * d, "residual: h itself", ha="center", va="bottom", fontsize=9)
    ax.annotate("", (6.0, 0), (5.54, 0), arrowprops=dict(arrowstyle="->", color="black"))
    ax.set_xlim(-0.4, 6.1)
    ax.set_ylim(-0.62 * d, 0.78 * d)
    ax.axis("off")
    return ax


_FROZEN, _LINE = "#dfe3e6", "#444444"
#: What each picture says in words.
_FLOWS = {
    "Houlsby": "from the bottom up attention, +, LN, feed-forward, + and LN, as in all panels; "
    "A reads the output of attention and that of the feed-forward, and is added to it",
    # What A reads here is an exercise of the notebook, whose answer has it in words.
    "Pfeiffer": "A is beside the feed-forward's output, and is added to it; follow the arrows to what it reads",
    "parallel": "A reads what the feed-forward reads, and is added to the feed-forward's output, times s",
    "Lin": "A reads the block's output after a norm of its own, and is added to it",
}


def adapter_places(panels: Sequence[Axes] | None = None) -> Sequence[Axes]:
    r"""The data flow of a block with norms after the sums (BERT), from the bottom up, with four kinds of adapters.

    Frozen parts are grey, trained ones coloured. The line on the left is the block's residual; the straight line in
    the middle carries what the sublayer (in Lin's: the block) gave, to which A's output is added.
    """
    panels = plt.subplots(1, len(_FLOWS), figsize=(9.2, 6.2))[1] if panels is None else panels
    for ax, (name, flow) in zip(panels, _FLOWS.items(), strict=True):
        _block(ax)
        {"Houlsby": _houlsby, "Pfeiffer": _pfeiffer, "parallel": _parallel, "Lin": _lin}[name](ax)
        ax.set_title(name)
        ax.set_xlim(-1.3, 1.75)
        ax.set_ylim(-0.3, 12.9)
        ax.axis("off")
        alt.says(ax, flow)
    return panels


def _box(ax: Axes, x: float, y: float, text: str, trained: bool = False, width: float = 1.3) -> None:
    r"""From y to y + 0.5, around x."""
    ax.add_patch(plt.Rectangle((x - width / 2, y), width, 0.5, color=COLOURS[1] if trained else _FROZEN))
    ax.text(x, y + 0.25, text, ha="center", va="center", fontsize=8.5)


def _path(ax: Axes, *points: tuple[float, float], arrow: bool = True) -> None:
    r"""A line through the points, with a head at the last."""
    ax.plot(*zip(*points, strict=True), color=_LINE, linewidth=1)
    if arrow:
        ax.annotate("", points[-1], points[-2],
                    arrowprops=dict(arrowstyle="->", color=_LINE, shrinkA=0, shrinkB=0))  # fmt: skip


def _plus(ax: Axes, x: float, y: float) -> None:
    ax.plot([x], [y], "o", markersize=11, markerfacecolor="white", markeredgecolor=_LINE, zorder=3)
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
        _box(ax, 1.1, bottom, "A", True, 0.8)
        _path(ax, (1.1, bottom + 0.5), (1.1, end), (0.14, end))
        _plus(ax, 0, end)


def _pfeiffer(ax: Axes) -> None:
    _path(ax, (0, 4.7), (1.1, 4.7), (1.1, 5.76))
    _path(ax, (0, 5.9), (0.96, 5.9))
    _plus(ax, 1.1, 5.9)
    _path(ax, (1.1, 6.05), (1.1, 6.3))
    _box(ax, 1.1, 6.3, "LN", width=0.8)
    _path(ax, (1.1, 6.8), (1.1, 7.05))
    _box(ax, 1.1, 7.05, "A", True, 0.8)
    _path(ax, (1.1, 7.55), (1.1, 7.9), (0.14, 7.9))
    _plus(ax, 0, 7.9)


def _parallel(ax: Axes) -> None:
    _path(ax, (0, 4.7), (1.1, 4.7), (1.1, 5.1))
    _box(ax, 1.1, 5.1, "A", True, 0.8)
    _path(ax, (1.1, 5.6), (1.1, 7.9), (0.14, 7.9))
    ax.text(1.15, 6.6, "× s", ha="left", va="center", fontsize=9)
    _plus(ax, 0, 7.9)


def _lin(ax: Axes) -> None:
    _path(ax, (0, 9.9), (1.1, 9.9), (1.1, 10.2))
    _box(ax, 1.1, 10.2, "new LN", True, 1.1)
    _path(ax, (1.1, 10.7), (1.1, 11.0))
    _box(ax, 1.1, 11.0, "A", True, 0.8)
    _path(ax, (1.1, 11.5), (1.1, 12.0), (0.14, 12.0))
    _plus(ax, 0, 12.0)
