r"""Pictures of the training cycle: how surprising tokens are, what each stage reads and learns, a loss between bars,
log-ratios, which tokens of a packed row see which and which notice a change, what is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from coursekit.plots.alt import says
from coursekit.plots.common import COLOURS, FROZEN, LINE, TRAINED, arrow, axes, box, without_axes

#: Steps that a thick line is the mean of.
SMOOTH = 10
#: Logits that move by less did not notice anything.
UNMOVED = 0.01


def loss_and_entropies(losses: Sequence[float], entropies: Mapping[str, float], tokens: int) -> Axes:
    r"""Training loss over the tokens that were read (log axis), with a line for each of `entropies` (label -> nats).

    tokens: in one step.
    """
    ax = axes(figsize=(7.0, 4.0))
    values = np.asarray(losses, dtype=float)
    ax.plot(tokens * np.arange(1, len(values) + 1), values, color=COLOURS[0], alpha=0.25, linewidth=1)
    ax.plot(*_means(losses, tokens), color=COLOURS[0], label="the model")
    ax.set_xscale("log")
    for colour, (label, height) in zip(("grey", *COLOURS[1:]), entropies.items(), strict=False):
        ax.axhline(height, color=colour, linestyle="--", linewidth=1)
        # At the left end the curve is far above all but the first line, which it leaves at once.
        ax.annotate(f"{label}: {height:.2f}", (0.01, height), xycoords=("axes fraction", "data"), xytext=(0, 3),
                    textcoords="offset points", fontsize=9, color=colour)  # fmt: skip
    ax.set_ylim(min(values.min(), *entropies.values()) - 0.3, max(values.max(), *entropies.values()) + 0.3)
    ax.set_xlabel("tokens read")
    ax.set_ylabel("loss (nats per token)")
    return ax


def first_below(losses: Sequence[float], entropies: Mapping[str, float], tokens: int) -> dict[str, int]:
    r"""Where the thick line of `loss_and_entropies` falls below each other: label -> tokens, if it does. That it begins
    below one tells of `SMOOTH`, not of the model: that one is left out.
    """
    read, mean = _means(losses, tokens)
    passed = {label: height for label, height in entropies.items() if mean[0] >= height > mean.min()}
    return {label: int(read[mean < height][0]) for label, height in passed.items()}


def _means(losses: Sequence[float], tokens: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Of so many losses each: the tokens read at their middle (on a log axis their end would lag), the mean."""
    smooth = min(SMOOTH, len(losses))
    mean = np.convolve(losses, np.ones(smooth) / smooth, mode="valid")
    return tokens * (np.arange(len(mean)) + (smooth + 1) // 2), mean


#: Of each stage its name, its rows (height, kind of tokens -> how many), and what enters its loss.
_STAGES = (
    ("1  pre-training", ((4.3, {"any text": 9}),), "mean over all"),
    ("2  instruction tuning", ((2.6, {"request": 5, "answer": 4}),), "mean over the answer"),
    ("3  preference tuning", ((0.9, {"request": 5, "chosen answer": 4}), (-0.2, {"request": 5, "rejected answer": 4})),
     "ln π/π₀ of the chosen answer\nminus that of the rejected one\n(π₀: the model after stage 2)"),
)  # fmt: skip
#: What a column has, with its shape.
_COLUMNS = {
    0.0: "token ids\n(batch, seq)",
    4.1: "model, gives logits\n(batch, seq, vocab)",
    7.55: "−ln π, one for each token\nbut the first: (batch, seq − 1)",
    11.0: "what enters the loss\na number",
}
#: Heights of the bars that stand for −ln π.
_NATS = (0.5, 0.25, 0.55, 0.15, 0.35, 0.5, 0.2, 0.4)


def stages() -> Axes:
    r"""What the three stages read, the model it goes through, and the tokens whose ln π their losses take.

    A token is a square, its −ln π a bar; what counts in the loss and what trains have one colour.
    """
    ax = axes(figsize=(9.2, 4.6))
    for x, heading in _COLUMNS.items():
        ax.text(x, 6.25, heading, ha="left", va="center", fontsize=9, color=LINE)
    for name, rows, loss in _STAGES:
        ax.text(0, rows[0][0] + 0.75, name, ha="left", va="bottom", fontsize=10, weight="bold")
        for y, kinds in rows:
            learned = [kind != "request" for kind, n in kinds.items() for _ in range(n)]
            for place, counts in enumerate(learned):
                colour = TRAINED if counts else FROZEN
                box(ax, 0.36 * place, y, 0.3, 0.3, colour=colour)
                if place:
                    box(ax, 7.25 + 0.3 * place, y, 0.22, _NATS[place - 1], colour=colour)
            for place, kind in zip((0, 5), kinds, strict=False):
                ax.text(0.36 * place, y + 0.36, kind, ha="left", va="bottom", fontsize=8, color=LINE)
            arrow(ax, 3.3, y + 0.15, 4.1, y + 0.15)
            arrow(ax, 6.6, y + 0.15, 7.45, y + 0.15)
        middle = sum(y for y, _ in rows) / len(rows) + 0.15
        arrow(ax, 10.05, middle, 10.85, middle)
        ax.text(11.0, middle, loss, ha="left", va="center", fontsize=9)
    box(ax, 4.1, 4.0, 2.5, 0.9, "a small Llama:\nall weights train", TRAINED)
    arrow(ax, 4.5, 4.0, 4.5, 3.2)
    ax.text(4.65, 3.6, "usually the same model", ha="left", va="center", fontsize=8, color=LINE)
    box(ax, 4.1, -0.4, 1.8, 3.6, "SmolLM2,\nfrozen")
    box(ax, 5.9, -0.4, 0.7, 3.6, "LoRA", TRAINED)
    without_axes(ax, (-0.1, 14.6), (-0.5, 6.6))
    says(
        ax,
        "Three rows from tokens (batch, seq) through a model to −ln π of each token but the first (batch, seq − 1) and "
        "the loss. 1 pre-training: any text; a small Llama, all weights train; mean over all tokens. 2 instruction "
        "tuning: request, answer; SmolLM2, frozen, with LoRA, which trains; mean over the answer alone. 3 preference "
        "tuning: the request with the chosen and with the rejected answer; the same model and LoRA; ln π/π₀ of the "
        "chosen minus that of the rejected answer, with π₀ the model after stage 2",
    )
    return ax


def surprise(tokens: Sequence[str], nats: Sequence[float], learned: Sequence[bool]) -> Axes:
    r"""A bar for each token, $-\ln \pi$ of it given those before; those that are learned in another colour."""
    ax = axes(figsize=(7.0, 3.2))
    for colour, label, kind in ((COLOURS[4], "prompt", False), (COLOURS[1], "answer", True)):
        at = [i for i, one in enumerate(learned) if bool(one) is kind]
        ax.bar(at, [nats[i] for i in at], color=colour, label=label)
    ax.set_xticks(range(len(tokens)), [repr(token)[1:-1] for token in tokens], rotation=90, fontsize=9)
    ax.set_xlabel("token")
    ax.set_ylabel("−ln π (nats)")
    ax.legend()
    return ax


def log_ratios(pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Axes:
    r"""A point for each pair of answers: $\ln \pi/\pi_0$ of the chosen and of the rejected one.

    pairs: label -> those of the chosen, those of the rejected. Below the slanted line the margin is positive.
    """
    ax = axes(figsize=(7.0, 4.6))
    for colour, marker, (label, (chosen, rejected)) in zip(COLOURS, "osD^", pairs.items(), strict=False):
        ax.plot(chosen, rejected, marker, color=colour, label=label)
    ax.axline((0, 0), slope=1, color="grey", linestyle="--", linewidth=1)
    ax.axvline(0, color="grey", linewidth=1)
    ax.axhline(0, color="grey", linewidth=1)
    ax.set_aspect("equal", adjustable="datalim")  # the slanted line is a diagonal
    at = 0.8 * min(value for chosen, _ in pairs.values() for value in chosen)
    ax.annotate("margin 0", (at, at), xytext=(-3, 3), textcoords="offset points", ha="center", va="bottom",
                rotation=45, rotation_mode="anchor", fontsize=9, color="grey")  # fmt: skip
    for x, text, ha in ((0.02, "chosen less likely than before", "left"), (0.98, "chosen likelier", "right")):
        ax.annotate(text, (x, 1.01), xycoords="axes fraction", ha=ha, fontsize=9, color="grey")
    ax.set_xlabel("ln π − ln π₀ of the chosen answer (nats)")
    ax.set_ylabel("ln π − ln π₀ of the rejected answer (nats)")
    ax.legend(loc="lower right", frameon=True)  # its frame hides the lines, and few points lie there
    return ax


def packed_masks(lengths: Sequence[int]) -> Figure:
    r"""Which tokens of a packed row each token sees, where positions count on and where they begin again.

    lengths: of the row's examples. A token sees itself and those before it, back to where a position does not go up by
    1: there transformers lets an example begin.
    """
    figure, panels = plt.subplots(1, 2, figsize=(7.0, 3.4), sharey=True)
    total, borders = sum(lengths), [0, *np.cumsum(lengths)]
    rows = {
        "position_ids count on": [*range(total)],
        "position_ids begin again": [place for n in lengths for place in range(n)],
    }
    told = []
    for ax, colour, (title, positions) in zip(panels, COLOURS, rows.items(), strict=False):
        example = np.cumsum(np.diff(positions, prepend=-1) != 1)
        seen = np.tril(example[:, None] == example)
        for row, column in np.argwhere(seen):
            box(ax, column + 0.05, row + 0.05, 0.9, 0.9, colour=colour)
        for border in borders[1:-1]:
            ax.axvline(border, color="grey", linestyle=":", linewidth=1)
            ax.axhline(border, color="grey", linestyle=":", linewidth=1)
        ax.set_xlim(0, total)
        ax.set_ylim(total, 0)
        ax.set_aspect("equal")
        ax.set_xticks(np.arange(total) + 0.5, positions, fontsize=8)
        ax.set_yticks(
            [(low + high) / 2 for low, high in itertools.pairwise(borders)],
            [f"example {n}" for n in range(1, len(lengths) + 1)],
        )
        ax.tick_params(length=0)
        ax.spines[:].set_visible(True)
        ax.set_title(title)
        ax.set_xlabel("tokens that are seen")
        told.append(f"{title}: {seen.sum()} of {total * total}")
    panels[0].set_ylabel("tokens that see")
    says(
        figure,
        f"A row of examples of {', '.join(map(str, lengths))} tokens: which token sees which. {'; '.join(told)}.",
    )
    return figure


def noticed(moved: Mapping[str, Sequence[float]], positions: Sequence[int], changed: int) -> Figure:
    r"""How far the logits of each token of a packed row move when one token is changed: a panel for each label of
    `moved`, one value a token. Below `UNMOVED` nothing is drawn.

    positions: the row's position_ids, which begin at 0 again with every example; each border is a line. changed: the
    place of the changed token, a triangle.
    """
    figure, panels = plt.subplots(len(moved), 1, figsize=(7.0, 1.9 * len(moved)), sharex=True, sharey=True)
    begins = [place for place, position in enumerate(positions) if position == 0]
    highest, told = max(max(values) for values in moved.values()), []
    for ax, colour, (label, values) in zip(np.ravel(panels), COLOURS, moved.items(), strict=False):
        places = np.arange(len(values))
        ax.fill_between(places, UNMOVED, np.maximum(values, UNMOVED), color=colour, linewidth=0)
        for number, (begin, end) in enumerate(zip(begins, [*begins[1:], len(values)], strict=True), start=1):
            if begin:
                ax.axvline(begin, color="grey", linestyle=":", linewidth=1)
            ax.annotate(f"example {number}", ((begin + end) / 2, 0.99), xycoords=("data", "axes fraction"), va="top",
                        ha="center", fontsize=9, color=LINE)  # fmt: skip
        ax.plot(changed, UNMOVED, "k^", clip_on=False)
        ax.set_yscale("log")
        ax.set_ylim(UNMOVED, max(8 * highest, 10 * UNMOVED))
        ax.set_title(label)
        beyond = max(values[begins[1] :]) if len(begins) > 1 else 0.0
        told.append(f"{label}: by up to {max(values):.3g} there, {beyond:.3g} behind it")
    ax.set_xlim(0, len(positions))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())
    says(figure, f"Largest move of a logit (log scale) at each token of a row of {len(begins)} examples, when token "
                 f"{changed}, in the first, is changed. {'; '.join(told)}.")  # fmt: skip
    figure.supylabel("largest move of a logit", fontsize=10)
    ax.set_xlabel("token of the row (▲ the changed one)")
    return figure


def learned_and_kept(
    curves: Mapping[str, Sequence[tuple[float, float]]], before: tuple[float, float], new: str = "new domain",
    old: str = "old domains",
) -> Axes:  # fmt: skip
    r"""Perplexity of what is new against that of what is old; the best corner is at the lower left.

    curves: remedy -> (new, old) at each of its strengths, joined by a line; a point that another one of its remedy is
    ahead of on both stands alone. before: where the model came from, of which the old is drawn as a line. No legend:
    `forgetting.name_points` names the lines.
    """
    ax = axes(figsize=(7.0, 4.8))
    for colour, marker, (label, points) in zip(COLOURS, "osD^vP", curves.items(), strict=False):
        behind = [p for p in points if any(q[0] < p[0] and q[1] < p[1] for q in points)]
        x, y = zip(*(p for p in points if p not in behind), strict=True)
        # A single point is large and hollow: what lies at the same place shows through.
        size, face = (6, colour) if len(points) > 1 else (10, "none")
        look = {"color": colour, "marker": marker, "markersize": size, "markerfacecolor": face}
        ax.plot(x, y, linewidth=1, label=label, **look)
        if behind:
            ax.plot(*zip(*behind, strict=True), linestyle="none", **look)
            says(ax, f"{label}, apart: " + ", ".join(f"{height:.1f}" for _, height in behind))
    # A line, not a point: far to the right, it would squeeze all others together.
    ax.axhline(before[1], color="grey", linestyle="--", linewidth=1)
    ax.annotate(f"before: the {new} at {before[0]:.0f}, far to the right", (0.99, before[1]), ha="right",
                xycoords=("axes fraction", "data"), xytext=(0, 4), textcoords="offset points", fontsize=9,
                color="grey")  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.margins(x=0.09)  # room for names beside the points
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:.0f}")
        axis.set_minor_formatter("{x:.0f}")
    ax.tick_params(which="both", labelsize=9)
    ax.set_xlabel(f"perplexity of the {new} (learned: to the left)")
    ax.set_ylabel(f"perplexity of the {old} (kept: down)")
    return ax
