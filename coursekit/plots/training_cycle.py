r"""Pictures of the training cycle: a loss between entropies, examples in the prompt or in training, what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from coursekit.plots.common import COLOURS, axes


def loss_and_entropies(
    losses: Sequence[float],
    entropies: Mapping[str, float],
    tokens: int,
    smooth: int = 10,
    ax: Axes | None = None,
) -> Axes:
    r"""Training loss over the tokens that were read (log axis), with a line for each of `entropies` (label -> nats).

    tokens: in one step.
    """
    ax = axes(ax, figsize=(7.0, 4.0))
    values = np.asarray(losses, dtype=float)
    smooth = min(smooth, len(values))
    mean = np.convolve(values, np.ones(smooth) / smooth, mode="valid")
    read = tokens * np.arange(1, len(values) + 1)
    ax.plot(read, values, color=COLOURS[0], alpha=0.25, linewidth=1)
    middle = (smooth - 1) // 2  # of each mean: on a log axis one at its end would lag visibly
    ax.plot(read[middle : middle + len(mean)], mean, color=COLOURS[0], label="the model")
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


def by_examples(
    curves: Mapping[str, Mapping[int, Sequence[Any]]],
    chance: float | None = None,
    start: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Accuracy against the number of examples (log axis, with 0), the mean of one or more scores for each number.

    curves: label -> number of examples -> `Score`s, one for each seed, all on the same sentences. The bar is the 95 %
    interval over sentences (the mean of the seeds' intervals: more seeds do not make more sentences); several seeds
    are dots as well. chance: a line, the accuracy of one grade for every sentence. start: another.
    """
    ax = axes(ax, figsize=(7.0, 3.8))
    for i, (colour, marker, (label, points)) in enumerate(zip(COLOURS, "osD^", curves.items(), strict=False)):
        # Two curves with the same number of examples would hide each other's bars: a small step aside.
        x = 1.06**i * np.array([max(n, 0.5) for n in points], dtype=float)
        y = np.array([np.mean([s.value for s in scores]) for scores in points.values()])
        low, high = (
            np.array([np.mean([getattr(s, end) for s in scores]) for scores in points.values()])
            for end in ("low", "high")
        )
        ax.errorbar(x, y, yerr=[y - low, high - y], color=colour, marker=marker, capsize=4, label=label)
        seeds = [
            (1.07 * at, s.value) for at, v in zip(x, points.values(), strict=True) if len(v) > 1 for s in v
        ]
        if seeds:
            ax.plot(*zip(*seeds, strict=True), ".", color=colour, markersize=6)
    numbers = sorted({n for points in curves.values() for n in points})
    for text, height in (("always one label", chance), ("as it comes", start)):
        if height is not None:
            ax.axhline(height, color="grey", linestyle="--", linewidth=1)
            # Ends before the last intervals, which may cross the line; a cap is 4 points to each side.
            ax.annotate(text, (max([0.5, *numbers]), height), xytext=(-8, 3), ha="right",
                        textcoords="offset points", fontsize=9, color="grey")  # fmt: skip
    ax.set_xscale("log")
    ax.set_xticks([max(n, 0.5) for n in numbers], [f"{n:,}" for n in numbers])
    ax.minorticks_off()
    ax.set_xlabel("examples")
    ax.set_ylabel("accuracy")
    ax.legend(loc="upper left")
    return ax


def learned_and_kept(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    before: tuple[float, float],
    new: str = "new domain",
    old: str = "old domains",
    ax: Axes | None = None,
) -> Axes:
    r"""Perplexity of what is new against that of what is old; the best corner is at the lower left.

    curves: remedy -> (new, old) at each of its strengths, joined by a line. before: where the model came from, of
    which the old is drawn as a line.
    """
    ax = axes(ax, figsize=(7.0, 4.6))
    for colour, marker, (label, points) in zip(COLOURS, "osD^vP", curves.items(), strict=False):
        x, y = zip(*points, strict=True)
        ax.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=1, label=label)
    # A line, not a point: far to the right, it would squeeze all others together.
    ax.axhline(before[1], color="grey", linestyle="--", linewidth=1)
    ax.annotate(f"before: the {new} at {before[0]:.0f}, far to the right", (0.99, before[1]), ha="right",
                xycoords=("axes fraction", "data"), xytext=(0, 4), textcoords="offset points", fontsize=9,
                color="grey")  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:.0f}")
        axis.set_minor_formatter("{x:.0f}")
    ax.tick_params(which="both", labelsize=9)
    ax.set_xlabel(f"perplexity of the {new} (learned: to the left)")
    ax.set_ylabel(f"perplexity of the {old} (kept: down)")
    ax.legend(fontsize=9)
    return ax


def preference(margins: Sequence[float], shares: Mapping[str, Any]) -> Sequence[Axes]:
    r"""The reward margin over the steps of DPO, and the share of held-out pairs that have a positive one.

    margins: of each step's batch. shares: label -> `Score`.
    """
    _, (left, right) = plt.subplots(1, 2, figsize=(7.0, 3.2), width_ratios=(1.3, 1))
    left.plot(range(1, len(margins) + 1), margins, marker="o", markersize=3)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_xlabel("step")
    left.set_ylabel("reward margin of the batch")
    values = list(shares.values())
    ends = [[v.value - v.low for v in values], [v.high - v.value for v in values]]
    right.errorbar(range(len(values)), [v.value for v in values], yerr=ends, fmt="o", capsize=4)
    right.set_xticks(range(len(values)), [label.replace(", ", ",\n") for label in shares])
    right.set_xlim(-0.5, len(values) - 0.5)
    right.set_ylim(0, 1.05)
    right.set_ylabel("share with a positive margin")
    for ax, height in ((left, 0), (right, 0.5)):
        ax.axhline(height, color="grey", linestyle="--", linewidth=1)
    return left, right
