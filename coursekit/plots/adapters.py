r"""Pictures of an adapter, and of where adapters stand in a block."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from coursekit.plots.common import COLOURS, axes


def bottleneck(d: int, r: int, ax: Axes | None = None) -> Axes:
    r"""A bottleneck adapter from left to right: d numbers, r numbers, d numbers, with heights to scale."""
    ax = axes(ax, figsize=(7.0, 2.9))
    columns = [
        (0.0, d, COLOURS[0], f"h: {d}"),
        (2.0, r, COLOURS[1], f"{r}"),
        (2.6, r, COLOURS[1], f"{r}"),
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
        ax.add_patch(plt.Polygon(corners, color="#e9ecef" if left != 1 else "#d9cfe8"))
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


#: Parts of a block with norms after the residual (BERT), from the bottom up; "A" is the place of an adapter.
_PLACES = {
    "Houlsby": ("attention", "A", "+ LN", "feed-forward", "A", "+ LN"),
    "Pfeiffer": ("attention", "+ LN", "feed-forward", "A", "+ LN"),
    "parallel": ("attention", "+ LN", "FFN|A", "+ LN"),
    "Lin": ("attention", "+ LN", "feed-forward", "+ LN", "A"),
}


def adapter_places(ax: Axes | None = None) -> Axes:
    r"""Where four kinds of adapters sit in a block, read from the bottom up. Frozen parts are grey."""
    ax = axes(ax, figsize=(7.4, 3.6))
    grey, colour = "#dfe3e6", COLOURS[1]
    for column, (name, parts) in enumerate(_PLACES.items()):
        x = 2.1 * column
        for row, part in enumerate(parts):
            beside = part.split("|")
            width = 1.6 / len(beside)
            for i, text in enumerate(beside):
                left, inside = x + i * width, width - (0.06 if len(beside) > 1 else 0)
                ax.add_patch(plt.Rectangle((left, row), inside, 0.7, color=colour if text == "A" else grey))
                ax.text(left + inside / 2, row + 0.35, text, ha="center", va="center", fontsize=9)
            if row:
                ax.annotate("", (x + 0.8, row), (x + 0.8, row - 0.3),
                            arrowprops=dict(arrowstyle="->", color="#666666", shrinkA=0, shrinkB=0))  # fmt: skip
        ax.text(x + 0.8, -0.35, name, ha="center", va="top", fontsize=11)
    ax.set_xlim(-0.15, 2.1 * len(_PLACES) - 0.35)
    ax.set_ylim(-0.95, 6.0)
    ax.axis("off")
    return ax
