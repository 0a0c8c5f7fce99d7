r"""The pictures of LoRA: its data flow, and how much of an update a low rank keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from coursekit.plots.alt import says
from coursekit.plots.common import COLOURS, axes, without_axes

#: Updates of full fine-tuning have its colour.
_UPDATES: dict[str, dict[str, Any]] = {
    "true labels": dict(color=COLOURS[2]),
    "shuffled labels": dict(color=COLOURS[2], linestyle="--"),
    "random matrices": dict(color="grey", linestyle=":"),
}


def data_flow(d_in: int, d_out: int, r: int, bits: float | None = None) -> Axes:
    r"""The two ways of a token through a layer with LoRA: $W_0 x$ above, $B(Ax)$ below, shapes on the arrows.

    Boxes are as wide as log(numbers of the token's vector) where it enters and where it leaves. bits: how many a
    frozen weight takes where it lies in codes, as in QLoRA; these are drawn above the matrix that they become.
    """
    ax = axes(figsize=(8.2, 3.1 if bits is None else 3.9))
    frozen, trained = "#dfe3e6", COLOURS[1]

    def box(x: float, y: float, left: float, right: float, colour: str, text: str) -> None:
        corners = [(x, y - left), (x + 1.7, y - right), (x + 1.7, y + right), (x, y + left)]
        ax.add_patch(plt.Polygon(corners, color=colour))
        ax.text(x + 0.85, y, text, ha="center", va="center", fontsize=9)

    def arrow(x0: float, y0: float, x1: float, y1: float, text: str = "", up: float = 0.12) -> None:
        ax.annotate("", (x1, y1), (x0, y0), arrowprops=dict(arrowstyle="->", color="#444444", shrinkA=0, shrinkB=0))
        if text:
            ax.text((x0 + x1) / 2, max(y0, y1) + up, text, ha="center", va="bottom", fontsize=8, color="#444444")

    high, low = 1.1, -0.95
    thin = 0.62 * float(np.log(r + 1) / np.log(max(d_in, d_out)))
    ax.text(-0.1, 0.08, "x", ha="right", va="center", fontsize=13)
    ax.plot([0, 0.75], [0.08, 0.08], color="#444444", linewidth=1)
    ax.text(0.38, 0.16, f"({d_in})", ha="center", va="bottom", fontsize=8, color="#444444")
    ax.plot([0.75, 0.75], [low, high], color="#444444", linewidth=1)
    arrow(0.75, high, 3.05, high)
    matrix = "$W_0$, frozen" if bits is None else "$W$, unpacked"
    box(3.05, high, 0.62, 0.62, frozen, f"{matrix}\n{d_out} × {d_in}")
    if bits is not None:
        ax.add_patch(plt.Rectangle((2.15, 2.4), 3.5, 0.7, color=frozen))
        stored = f"codes and scales, frozen:\n{bits:.3f} bits a weight"
        ax.text(3.9, 2.75, stored, ha="center", va="center", fontsize=9)
        arrow(3.9, 2.4, 3.9, high + 0.64)
        use = "for each product, forward and backward,\nthen dropped"
        ax.text(4.05, 2.07, use, va="center", fontsize=8, color="#444444")
    arrow(4.75, high, 8.55, high, f"${'W_0' if bits is None else 'W'}x$: ({d_out})")
    arrow(0.75, low, 1.6, low)
    box(1.6, low, 0.62, thin, trained, f"A\n{r} × {d_in}")
    arrow(3.3, low, 4.5, low, f"$Ax$: ({r})")
    box(4.5, low, thin, 0.62, trained, f"B\n{d_out} × {r}")
    arrow(6.2, low, 7.3, low, f"({d_out})")
    ax.text(7.62, low, "× α/r", ha="center", va="center", fontsize=10)
    ax.plot([7.95, 8.75], [low, low], color="#444444", linewidth=1)
    arrow(8.75, low, 8.75, high - 0.22)
    ax.text(8.75, high, "⊕", ha="center", va="center", fontsize=17)
    arrow(8.95, high, 9.75, high)
    ax.text(9.85, high, f"h ({d_out})", ha="left", va="center", fontsize=11)
    return without_axes(ax, (-0.4, 10.9), (-1.75, 1.85 if bits is None else 3.2))


def kept_by_rank(curves: Mapping[str, Sequence[float]], r: int) -> Axes:
    r"""Share of the squared norm that the nearest matrix of rank 1, 2, … keeps, on a log axis; in figures at rank `r`.

    curves: a name of `_UPDATES` -> shares from 0 to 1, the first at rank 1.
    """
    ax = axes(figsize=(7.0, 3.2))
    for name, look in _UPDATES.items():
        shares, above = curves[name], name == "true labels"
        ax.plot(range(1, len(shares) + 1), shares, label=name, **look)
        ax.plot(r, shares[r - 1], "o", color=look["color"], markersize=4)
        below = dict(xytext=(-5, 3), ha="right") if above else dict(xytext=(5, -4), va="top")
        ax.annotate(f"{name}: {shares[r - 1]:.0%}", (r, shares[r - 1]), textcoords="offset points", fontsize=9,
                    color=look["color"], **below)  # fmt: skip
    says(ax, f"at r = {r}: " + ", ".join(f"{name} {curves[name][r - 1]:.0%}" for name in _UPDATES))
    return _shares_by_rank(ax, f"rank r that is kept, of {len(shares)}")


def rank_for_half(curves: Mapping[str, Sequence[float]], half: Mapping[str, int]) -> Axes:
    r"""Share of the squared norm that the nearest matrix of rank 1, 2, … keeps, with a dot where it gets to a half.

    curves: a matrix's name -> shares from 0 to 1, the first at rank 1. half: its name -> the rank that keeps a half.
    """
    ax = axes(figsize=(7.0, 3.2))
    looks = cycle((dict(color=COLOURS[0], linewidth=3, alpha=0.5), dict(color="#444444", linestyle=":"),
                   dict(color=COLOURS[2]), dict(color=COLOURS[1])))  # fmt: skip
    places = cycle((dict(xytext=(-7, 7), ha="right"), dict(xytext=(7, -14), va="top")))  # beside each other's dot
    for (name, shares), look, place in zip(curves.items(), looks, places, strict=False):
        rank = half[name]
        ax.plot(range(1, len(shares) + 1), shares, label=name, **look)
        ax.plot(rank, shares[rank - 1], "o", color=look["color"], markersize=5)
        ax.annotate(f"{name}: rank {rank}", (rank, shares[rank - 1]), textcoords="offset points", fontsize=9,
                    color=look["color"], **place)  # fmt: skip
    ax.axhline(0.5, color="grey", linestyle="--", linewidth=1, zorder=0)
    ax.annotate("half", (1, 0.5), xycoords=ax.get_yaxis_transform(), xytext=(-2, 3), textcoords="offset points",
                ha="right", fontsize=9, color="#666666")  # fmt: skip
    says(ax, "half is kept at rank: " + ", ".join(f"{name} {rank}" for name, rank in half.items()))
    return _shares_by_rank(ax, f"rank that is kept, of {len(shares)}")


def _shares_by_rank(ax: Axes, label: str) -> Axes:
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.set_xlabel(label)
    ax.set_ylabel("share of the squared norm kept")
    return ax
