r"""Pictures of paging (which page lies on the device when, what goes back and forth in each step), and of two models
beside each other: their training losses, and what each test sentence costs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from coursekit.plots.common import COLOURS, axes, loss_curve
from coursekit.plots.hybrid import FAMILIES

#: What a cell of `residency` is: elsewhere, there, used while there, brought in.
_KINDS = {
    "in host memory": "#f4f4f4",
    "on the device": "#cfe0ee",
    "used: a hit": COLOURS[0],
    "brought in: a fault": COLOURS[1],
}


def residency(
    uses: Sequence[int], there: Sequence[Sequence[int]], room: int, label: str = "", ax: Axes | None = None
) -> Axes:
    r"""A pager over time, use by use from left to right, one row for each page.

    uses: the page that each use needs. there: the pages on the device after it. room: how many fit.
    label: what the title begins with.
    """
    pages = max(uses) + 1
    cells = np.zeros((pages, len(uses)), dtype=int)
    before: set[int] = set()
    for step, (page, now) in enumerate(zip(uses, there, strict=True)):
        cells[list(now), step] = 1
        cells[page, step] = 2 if page in before else 3
        before = set(now)
    ax = axes(ax, figsize=(7.0, 0.9 + 0.26 * pages))
    ax.pcolormesh(
        cells, cmap=ListedColormap(list(_KINDS.values())), vmin=0, vmax=3, edgecolors="white", linewidth=1
    )
    ax.set_yticks(np.arange(pages) + 0.5, [str(p) for p in range(pages)])
    ax.invert_yaxis()
    ax.set_ylabel("page")
    ax.set_xlabel("use")
    faults = int((cells == 3).sum())
    ax.set_title(
        f"{label + ', ' if label else ''}room for {room} of {pages} pages: {faults} of {len(uses)} uses are faults",
        fontsize=10,
    )
    ax.legend(
        handles=[Patch(color=c, label=k) for i, (k, c) in enumerate(_KINDS.items()) if (cells == i).any()],
        loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False, fontsize=9,
    )  # fmt: skip
    return ax


def page_traffic(histories: Mapping[str, Sequence[Any]], unit: float = 1e6, ax: Axes | None = None) -> Axes:
    r"""Bytes brought in (up) and taken out (down) in each step, side by side for each entry of `histories`.

    histories: label -> one `quantization.pager.Traffic` for each step. unit: bytes of one unit of the axis.
    """
    ax = axes(ax, figsize=(7.0, 3.2))
    width = 0.8 / len(histories)
    for i, (colour, (label, steps)) in enumerate(zip(COLOURS, histories.items(), strict=False)):
        x = np.arange(1, len(steps) + 1) + (i - (len(histories) - 1) / 2) * width
        ax.bar(x, [t.bytes_in / unit for t in steps], width, color=colour, label=label)
        ax.bar(x, [-t.bytes_out / unit for t in steps], width, color=colour, alpha=0.5)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xlabel("step")
    ax.set_ylabel("MB in (up), out (down)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    return ax


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
    right.set_xlabel(one)
    right.set_ylabel(other)
    right.set_title(f"{what}, a dot is a test sentence")
    return left, right


def means(
    values: Mapping[str, tuple[float, float]], guessing: float, xlabel: str, ax: Axes | None = None
) -> Axes:
    r"""Bars for label -> (mean, half of its interval); `guessing` as a dotted line."""
    ax = axes(ax, figsize=(7.0, 0.5 + 0.5 * len(values)))
    middle, margin = zip(*values.values(), strict=True)
    ax.barh(list(values), middle, xerr=margin, capsize=4)
    ax.axvline(guessing, color="grey", linestyle=":")
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    return ax
