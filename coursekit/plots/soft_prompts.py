r"""Pictures of where virtual tokens stand, and of what a gate does to the first steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from torch import Tensor

from coursekit.plots.alt import says
from coursekit.plots.common import COLOURS, LINE, TRAINED, arrow, axes, box, name_lines, without_axes

_SOFT_PROMPTS = ("prompt tuning", "P-tuning", "prefix tuning", "LLaMA-Adapter")


def soft_prompt_places() -> Sequence[Axes]:
    r"""Where virtual tokens stand: positions from left to right, the input at the foot and the blocks above it.

    Trained parameters are full; what is computed from them is pale: what the frozen model makes of a virtual token of
    the input, and P-tuning's virtual tokens themselves, which come from a network. A prefix and LLaMA-Adapter's prompts
    have no input below them: they stand in the blocks, the latter apart and behind a gate.
    """
    panels = plt.subplots(1, len(_SOFT_PROMPTS), figsize=(8.2, 2.7))[1]
    trained, computed, text = COLOURS[1], "#f6ddb8", "#dfe3e6"
    n, tokens, layers, top = 3, 5, 5, 3  # virtual tokens and tokens of the text; blocks, and those with prompts
    for ax, name in zip(panels, _SOFT_PROMPTS, strict=True):
        gap = 1.9 if name == "LLaMA-Adapter" else 0.0
        for level in range(layers + 1):
            for position in range(n + tokens):
                colour = text
                if position < n:
                    if name in ("prompt tuning", "P-tuning"):
                        colour = trained if level == 0 and name == "prompt tuning" else computed
                    elif level == 0 or (gap and level <= layers - top):
                        continue
                    else:
                        colour = trained
                x = position + (gap if position >= n else 0)
                ax.add_patch(plt.Rectangle((x, level + (0.25 if level else 0)), 0.86, 0.8, color=colour))
        if name == "P-tuning":
            ax.add_patch(plt.Rectangle((0, -1.25), n - 0.14, 0.85, color=trained))
            ax.text((n - 0.14) / 2, -0.82, "network", ha="center", va="center", fontsize=8)
        else:
            ax.text(0, -0.35, "prefix" if name == "prefix tuning" else "prompt", va="top")
        if gap:
            ax.text(n + gap / 2 - 0.07, layers - 0.35, "gate", ha="center", va="center", fontsize=9)
        ax.text(n + tokens / 2 + gap, -0.35, "text", ha="center", va="top")
        ax.set_title(name)
        ax.set_xlim(-0.2, n + tokens + 1.9)
        ax.set_ylim(-1.4, layers + 1.4)
        ax.set_xticks([])
        ax.set_yticks([0.4, *(level + 0.65 for level in range(1, layers + 1))], ["input", *range(1, layers + 1)])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        if ax is not panels[0]:
            ax.set_yticks([])
    panels[0].set_ylabel("block")
    return panels


def attention_shares(shares: Tensor, n: int) -> Axes:
    r"""Which places each token of a text gives its attention to, and how much: the darker the more.

    shares: (seq, n + seq), each row adds up to 1; the first n columns are a prefix, drawn in orange.
    """
    ax = axes(figsize=(5.2, 2.9))
    for row, of in enumerate(shares.tolist()):
        for column, share in enumerate(of):
            colour = COLOURS[1] if column < n else COLOURS[0]
            fill = dict(facecolor=colour, alpha=0.15 + 0.85 * share) if share else dict(facecolor="none")
            ax.add_patch(plt.Rectangle((column - 0.45, row - 0.45), 0.9, 0.9, **fill))
    seq = len(shares)
    ax.set(xlim=(-0.6, n + seq - 0.4), ylim=(seq - 0.4, -0.6), aspect="equal")
    ax.set(xlabel="keys: the prefix, then the text", ylabel="query of token i")
    ax.set_xticks(range(n + seq), [*(f"p{i}" for i in range(n)), *range(seq)])
    ax.set_yticks(range(seq))
    seen = ", ".join(f"{int((row > 0).sum())} for token {i}" for i, row in enumerate(shares))
    says(ax, f"tiles, a row for each token and a column for each key; coloured, since they get attention: {seen}")
    return ax


def gated_block() -> Axes:
    r"""One block of LLaMA-Adapter: two softmaxes, the gate on one of them, both added, and the block's residual."""
    ax = axes(figsize=(8.2, 2.9))
    ax.text(0.0, 1.5, "x", ha="right", va="center", fontsize=12)
    arrow(ax, 0.05, 1.5, 1.0, 1.5)
    box(ax, 1.0, 1.2, 0.7, 0.6, "$W_q$")
    box(ax, 2.5, 1.85, 2.9, 0.7, "softmax over the text")
    box(ax, 2.5, 0.45, 2.9, 0.7, "softmax over the prompts")
    box(ax, 1.0, 2.15, 1.0, 0.6, "$W_k, W_v$")  # of the text
    box(ax, 3.3, -0.75, 1.0, 0.6, "$W_k, W_v$")  # the same matrices, of the prompts
    box(ax, 1.0, -0.75, 1.0, 0.6, "$P$", TRAINED)
    arrow(ax, 0.5, 1.5, 1.0, 2.3)
    arrow(ax, 2.0, 2.45, 2.5, 2.3)
    arrow(ax, 2.0, -0.45, 3.3, -0.45)
    arrow(ax, 1.7, 1.6, 2.5, 2.05)
    arrow(ax, 1.7, 1.4, 2.5, 0.8)
    arrow(ax, 3.8, -0.15, 3.8, 0.45)
    box(ax, 5.7, 0.5, 0.8, 0.6, "× g", TRAINED)
    arrow(ax, 5.4, 0.8, 5.7, 0.8)
    ax.text(7.15, 1.5, "⊕", ha="center", va="center", fontsize=16)
    arrow(ax, 5.4, 2.2, 7.0, 1.62)
    arrow(ax, 6.5, 0.8, 7.0, 1.38)
    box(ax, 7.6, 1.2, 0.7, 0.6, "$W_o$")
    arrow(ax, 7.3, 1.5, 7.6, 1.5)
    ax.text(9.05, 1.5, "⊕", ha="center", va="center", fontsize=16)
    arrow(ax, 8.3, 1.5, 8.9, 1.5)
    ax.plot([0.5, 0.5, 9.05], [1.5, 3.0, 3.0], color=LINE, linewidth=1)
    arrow(ax, 9.05, 3.0, 9.05, 1.65)
    ax.text(4.8, 3.08, "residual", ha="center", va="bottom", fontsize=9, color=LINE)
    arrow(ax, 9.2, 1.5, 10.0, 1.5)
    ax.text(6.1, 0.32, "starts at 0", ha="center", va="top", fontsize=8.5, color=LINE)
    return without_axes(ax, (-0.4, 10.2), (-0.9, 3.5))


def first_steps(losses: Mapping[str, Sequence[Sequence[float]]], every: int = 5) -> Axes:
    r"""Training loss over the first steps: the mean over the seeds, between the lowest and the highest of them.

    losses: label -> one list of losses a seed. every: so many steps in a row are one point, their mean at their middle;
    before these stands the first step alone.
    """
    ax = axes()
    for label, runs in losses.items():
        length = min(map(len, runs)) // every * every
        values = np.array([run[:length] for run in runs]).reshape(len(runs), -1, every).mean(axis=2)
        steps = np.arange(values.shape[1]) * every + (every + 1) / 2
        if every > 1:  # a mean hides where the losses start
            values = np.column_stack([[run[0] for run in runs], values])
            steps = np.append(1, steps)
        (line,) = ax.plot(steps, values.mean(axis=0), label=label, linewidth=1.4)
        ax.fill_between(steps, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.18, linewidth=0)
    ends = [min(line.get_xdata()[0] for line in ax.lines), max(line.get_xdata()[-1] for line in ax.lines)]
    ax.plot(ends, [np.log(2)] * 2, color="grey", linestyle=":", linewidth=1, label="a coin")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    points = f"the first, then means of {every}" if every > 1 else "lines: means of the seeds"
    ax.set_xlabel(f"step ({points}; bands: from seed to seed)")
    ax.set_ylabel("training loss (nats)")
    return name_lines(ax)
