r"""Pictures of where (IA)³ sits, and of what broken trainings of it look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from coursekit.plots.alt import says
from coursekit.plots.common import COLOURS, FROZEN, LINE, TRAINED, arrow, axes, box, without_axes

#: Boxes of the block: centre, width, text; those of (IA)³ start with "× ".
_BOXES = (
    (1.5, 2.4, 0.8, "$W_q$"), (1.5, 1.5, 0.8, "$W_k$"), (1.5, 0.6, 0.8, "$W_v$"), (2.7, 1.5, 0.9, "× $l_k$"),
    (2.7, 0.6, 0.9, "× $l_v$"), (4.1, 1.5, 1.2, "attention"), (5.4, 1.5, 0.7, "$W_o$"), (7.6, 1.5, 0.8, "$W_1$"),
    (8.6, 1.5, 0.6, "γ"), (9.6, 1.5, 0.9, "× $l_{ff}$"), (10.7, 1.5, 0.8, "$W_2$"),
)  # fmt: skip
#: Where lines of losses end (nats): a run that goes on above would flatten all others.
_TOP = 1.2
#: Arrows: from, to.
_ARROWS = (
    ((0.6, 1.5), (1.1, 2.4)), ((0.25, 1.5), (1.1, 1.5)), ((0.6, 1.5), (1.1, 0.6)), ((1.9, 2.4), (3.5, 1.7)),
    ((1.9, 1.5), (2.25, 1.5)), ((1.9, 0.6), (2.25, 0.6)), ((3.15, 1.5), (3.5, 1.5)), ((3.15, 0.6), (3.5, 1.3)),
    ((4.7, 1.5), (5.05, 1.5)), ((5.75, 1.5), (6.25, 1.5)), ((6.55, 1.5), (7.2, 1.5)), ((8.0, 1.5), (8.3, 1.5)),
    ((8.9, 1.5), (9.15, 1.5)), ((10.05, 1.5), (10.3, 1.5)), ((11.1, 1.5), (11.55, 1.5)), ((11.85, 1.5), (12.5, 1.5)),
)  # fmt: skip


def ia3_block() -> Axes:
    r"""One block from left to right, with the three vectors in colour, frozen parts grey, and both residual arrows."""
    ax = axes(figsize=(9.0, 2.6))
    for x, y, width, text in _BOXES:
        box(ax, x - width / 2, y - 0.3, width, 0.6, text, TRAINED if text.startswith("× ") else FROZEN)
    for start, end in _ARROWS:
        arrow(ax, *start, *end)
    ax.text(0.1, 1.5, "x", ha="center", va="center", fontsize=12)
    for left, plus in ((0.4, 6.4), (6.85, 11.7)):  # past the attention, past the feed-forward
        ax.text(plus, 1.5, "⊕", ha="center", va="center", fontsize=15)
        ax.plot([left, left, plus], [1.5, 3.1, 3.1], color=LINE, linewidth=1)
        ax.annotate("", (plus, 1.68), (plus, 3.1), arrowprops=dict(arrowstyle="->", color=LINE))
        ax.text((left + plus) / 2, 3.15, "residual", ha="center", va="bottom", fontsize=9, color=LINE)
    return without_axes(ax, (-0.1, 12.6), (0.1, 3.7))


def runs_side_by_side(runs: Sequence[Mapping[str, Any]]) -> Sequence[Axes]:
    r"""Trainings of (IA)³ for two classes beside each other: the loss of each above, some of its factors below.

    runs: each with "loss" (steps,) and "l" (steps + 1, n). A dotted line is ln 2, the loss of giving both classes 0.5.
    A line of losses is cut at _TOP, and its highest written down.
    The alt text has all runs: panel by panel it would be cut off before the factors.
    """
    figure, panels = plt.subplots(
        2, len(runs), figsize=(1.35 * len(runs), 3.8), sharex=True, sharey="row", squeeze=False
    )
    told = []
    for number, (run, (above, below)) in enumerate(zip(runs, panels.T, strict=True), start=1):
        loss, factors = (np.asarray(run[name], dtype=float) for name in ("loss", "l"))
        above.plot(np.arange(1, len(loss) + 1), np.minimum(loss, _TOP), color=COLOURS[0])
        above.axhline(np.log(2), color="grey", linestyle=":", linewidth=1)
        if loss.max() > _TOP:
            above.text(0.6, 0.65, f"↑ {loss.max():.0f}", ha="center", fontsize=9, transform=above.transAxes)
        below.plot(factors, color=COLOURS[1], linewidth=0.6, alpha=0.7)
        above.set_title(f"run {number}")
        below.set_xlabel("step")
        told.append(
            f"run {number}: loss {loss[0]:.2f} to {loss[-1]:.2f}, highest {loss.max():.3g}; "
            f"factors {factors[0].mean():.2f}, then {factors[-1].min():.2f} to {factors[-1].max():.2f}"
        )
    at = dict(xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=9, color="grey", va="center")
    panels[0][-1].annotate("guessing", (1, np.log(2)), xytext=(3, 0), annotation_clip=False, **at)
    says(figure, f"Loss (nats, ln 2 dotted) and factors of l_v, first and last step. {'. '.join(told)}.")
    losses = [value for run in runs for value in run["loss"]]
    panels[0][0].set_ylim(float(min(losses)) - 0.05, min(float(max(losses)), _TOP) + 0.05)
    panels[0][0].set_ylabel("training loss\n(nats)")
    panels[1][0].set_ylabel("factors of $l_v$")
    figure.align_ylabels()
    return panels.reshape(-1)
