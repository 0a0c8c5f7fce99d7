r"""The course's pictures. Each function draws one kind and returns its axes, so that a cell can add to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

#: One colour for each part of the memory bill, the same in every notebook. They differ in lightness too.
MEMORY_COLOURS = {
    "weights": "#1b4965",
    "master": "#5fa8d3",
    "gradients": "#e09f3e",
    "optimizer": "#9e2a2b",
    "activations": "#7a9e7e",
    "temporaries": "#c9cba3",
}
COLOURS = ("#1b4965", "#e09f3e", "#9e2a2b", "#7a9e7e", "#5fa8d3", "#7d5ba6")


def style() -> None:
    r"""The course's look. The paper stays white, so that a figure reads the same on a light and on a dark page."""
    mpl.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.figsize": (7.0, 3.6),
            "figure.constrained_layout.use": True,
            "figure.dpi": 90,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": mpl.cycler(color=COLOURS),
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "legend.frameon": False,
        }
    )


def axes(ax: Axes | None = None, **figure: Any) -> Axes:
    r"""`ax`, or a new one in a figure of its own."""
    return plt.subplots(**figure)[1] if ax is None else ax


def memory_bars(
    bills: Mapping[str, Mapping[str, float]],
    unit: str = "GB",
    capacity: tuple[str, float] | None = None,
    peaks: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""One horizontal stacked bar for each entry of `bills` (label -> category -> amount in `unit`).

    capacity: (name, amount), drawn as a line: what a card holds. peaks: label -> the most that is there at any one
    moment, as a mark on the bar: categories need not be at their largest together.
    """
    ax = axes(ax, figsize=(7.0, 1.2 + 0.45 * len(bills)))
    labels = list(bills)
    left = np.zeros(len(labels))
    for category, colour in MEMORY_COLOURS.items():
        sizes = np.array([bills[label].get(category, 0.0) for label in labels])
        if not sizes.any():
            continue
        ax.barh(labels, sizes, left=left, color=colour, label=category, edgecolor="white", linewidth=0.6)
        left += sizes
    for y, total in enumerate(left):
        text = f"{total:,.0f}" if total >= 100 else f"{total:.3g}"
        # On a white ground, since the line of a card's capacity may run through it.
        ground = dict(facecolor="white", edgecolor="none", pad=1)
        ax.text(total + 0.012 * left.max(), y, text, va="center", fontsize=9, bbox=ground, zorder=3)
    if capacity is not None:
        ax.axvline(capacity[1], color="black", linestyle="--", linewidth=1, label=capacity[0])
    if peaks is not None:
        ax.plot(
            list(peaks.values()),
            list(peaks),
            "|",
            color="black",
            markersize=9,
            markeredgewidth=2,
            label="peak",
        )
    ax.invert_yaxis()
    ax.set_xlim(0, 1.13 * max(left.max(), capacity[1] if capacity else 0))
    ax.set_xlabel(unit)
    # Above the bars and clear of them, whatever their length.
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=6, fontsize=9, handlelength=1.0, columnspacing=1.2
    )
    return ax


def predicted_and_measured(
    labels: Sequence[str],
    predicted: Sequence[float],
    measured: Sequence[float],
    unit: str,
    ax: Axes | None = None,
) -> Axes:
    r"""Predicted beside measured, one pair for each label."""
    ax = axes(ax, figsize=(7.0, 1.0 + 0.5 * len(labels)))
    y = np.arange(len(labels))
    ax.barh(y - 0.2, predicted, 0.38, label="predicted", color=COLOURS[4])
    ax.barh(y + 0.2, measured, 0.38, label="measured", color=COLOURS[0])
    ax.set_yticks(y, labels)
    ax.invert_yaxis()
    ax.set_xlabel(unit)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, fontsize=9)
    return ax


def loss_curve(losses: Mapping[str, Sequence[float]], smooth: int = 5, ax: Axes | None = None) -> Axes:
    r"""Training loss over steps, each run faint with its running mean of `smooth` steps on top."""
    ax = axes(ax)
    for colour, (label, values) in zip(COLOURS, losses.items(), strict=False):
        values = np.asarray(values, dtype=float)
        steps = np.arange(1, len(values) + 1)
        if len(values) > smooth:
            mean = np.convolve(values, np.ones(smooth) / smooth, mode="valid")
            ax.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
            ax.plot(steps[smooth - 1 :], mean, color=colour, label=label)
        else:
            ax.plot(steps, values, color=colour, label=label, marker="o", markersize=3)
    ax.set_xlabel("step")
    ax.set_ylabel("training loss (nats)")
    ax.legend()
    return ax


def scores(
    results: Mapping[str, Any], chance: float | None = None, label: str = "accuracy", ax: Axes | None = None
) -> Axes:
    r"""Scores with their 95 % intervals; `chance` as a line. `results`: label -> evaluation.Score."""
    ax = axes(ax, figsize=(7.0, 1.0 + 0.42 * len(results)))
    names = list(results)
    values = np.array([results[name].value for name in names])
    below = values - [results[name].low for name in names]
    above = np.array([results[name].high for name in names]) - values
    y = np.arange(len(names))
    ax.errorbar(values, y, xerr=[below, above], fmt="o", color=COLOURS[0], capsize=4)
    for value, high, row in zip(values, values + above, y, strict=True):
        ax.text(high + 0.012, row, f"{value:.2f}", va="center", fontsize=9)
    ax.set_yticks(y, names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    if chance is not None:
        ax.axvline(chance, color="grey", linestyle="--", linewidth=1)
        # Beside the line at the foot of the axes, where no point lies.
        ax.annotate("chance", (chance, 0.02), xycoords=("data", "axes fraction"), xytext=(3, 0),
                    textcoords="offset points", fontsize=9, color="grey")  # fmt: skip
    ax.set_xlim(0, min(1.08, max(values + above) + 0.12))
    ax.set_xlabel(f"{label}, with its 95 % interval")
    return ax


def grid(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    xlabel: str = "",
    ylabel: str = "",
    form: str = ".2f",
    ax: Axes | None = None,
) -> Axes:
    r"""A table of numbers as colours, with the numbers written in."""
    values = np.asarray(values, dtype=float)
    ax = axes(ax, figsize=(1.8 + 0.9 * len(columns), 1.2 + 0.5 * len(rows)))
    ax.imshow(values, cmap="Blues", aspect="auto", vmin=np.nanmin(values) - 0.1 * np.ptp(values) - 1e-9)
    dark = np.nanmin(values) + 0.6 * np.ptp(values)
    for i, j in np.ndindex(values.shape):
        colour = "white" if values[i, j] > dark and np.ptp(values) > 0 else "black"
        ax.text(j, i, format(values[i, j], form), ha="center", va="center", color=colour, fontsize=9)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return ax


def spectrum(values: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Axes:
    r"""Share of the squared length that the first k singular values hold, for each matrix."""
    ax = axes(ax)
    for label, singular in values.items():
        energy = np.cumsum(np.asarray(singular, dtype=float) ** 2)
        k = np.arange(1, len(energy) + 1)
        ax.plot(k, energy / energy[-1], label=label)
    ax.set_xscale("log")
    ax.set_ylim(0, 1.03)
    ax.set_xlabel("number of directions kept, k")
    ax.set_ylabel("share of ‖·‖² kept")
    ax.legend(loc="lower right")
    return ax


def matrices_to_scale(d_out: int, d_in: int, r: int, ax: Axes | None = None) -> Axes:
    r"""W and the two factors of its update, B and A, with areas in proportion to their numbers of parameters."""
    ax = axes(ax, figsize=(7.0, 3.2))
    gap = 0.12 * d_in
    parts = [
        (0.0, 0.0, d_in, d_out, COLOURS[0], f"$W_0$ (frozen)\n{d_out} × {d_in}"),
        (d_in + 2 * gap, 0.0, r, d_out, COLOURS[1], ""),
        (d_in + 2 * gap + r + gap, d_out - r, d_in, r, COLOURS[2], ""),
    ]
    for x, y, width, height, colour, text in parts:
        ax.add_patch(plt.Rectangle((x, y), width, height, color=colour))
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", color="white", fontsize=10)
    ax.text(d_in + gap, d_out / 2, "+", ha="center", va="center", fontsize=16)
    x_a = d_in + 3 * gap + r
    ax.text(d_in + 2 * gap + r / 2, -0.03 * d_out, f"B\n{d_out} × {r}", ha="center", va="top", fontsize=10)
    ax.text(x_a + d_in / 2, d_out - r - 0.03 * d_out, f"A: {r} × {d_in}", ha="center", va="top", fontsize=10)
    ax.set_xlim(-gap / 2, x_a + d_in + gap / 2)
    ax.set_ylim(-0.2 * d_out, 1.03 * d_out)
    ax.set_aspect("equal")
    ax.axis("off")
    return ax


def quality_against_size(
    rows: Sequence[Any],
    score: str,
    label: str,
    colours: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""One score of a published table against the number of trained parameters, on a log axis."""
    ax = axes(ax)
    names = list(dict.fromkeys(row.method for row in rows))
    colours = colours or dict(zip(names, [*COLOURS, "#444444", "#b0b0b0"], strict=False))
    for name in names:
        own = [row for row in rows if row.method == name]
        x = [float(row.published) * 1e6 for row in own]
        ax.plot(
            x,
            [row.scores[score] for row in own],
            "o-",
            color=colours[name],
            label=name,
            markersize=6,
            linewidth=1,
        )
    ax.set_xscale("log")
    ax.set_xlabel("trained parameters, as published")
    ax.set_ylabel(label)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return ax


def factors_by_layer(vectors: Mapping[str, Any]) -> Sequence[Axes]:
    r"""Every learned factor as a dot, layer by layer: one panel for each entry of `vectors`.

    vectors: label -> array (layers, n). Blue amplifies (above 1), orange inhibits (below 1); the bar is the median
    distance from 1, up and down.
    """
    _, panels = plt.subplots(1, len(vectors), figsize=(3.1 * len(vectors), 3.4), sharey=True, squeeze=False)
    random = np.random.default_rng(0)
    for ax, (name, values) in zip(panels[0], vectors.items(), strict=True):
        values = np.asarray(values, dtype=float)
        layer = np.repeat(np.arange(1, len(values) + 1), values.shape[1])
        flat = values.reshape(-1)  # (layers, n) -> (layers * n,)
        place = layer + random.uniform(-0.32, 0.32, len(flat))
        up = flat > 1
        ax.scatter(place[up], flat[up], s=2, alpha=0.35, color=COLOURS[0], linewidths=0, label="amplifies")
        ax.scatter(place[~up], flat[~up], s=2, alpha=0.35, color=COLOURS[1], linewidths=0, label="inhibits")
        middle = np.median(np.abs(values - 1), axis=1)
        ax.vlines(np.arange(1, len(values) + 1), 1 - middle, 1 + middle, color="black", linewidth=2)
        ax.axhline(1, color="grey", linewidth=0.8)
        ax.set_xticks(range(1, len(values) + 1, max(1, len(values) // 6)))
        ax.set_title(name)
        ax.set_xlabel("layer")
    panels[0][0].set_ylabel("factor")
    panels[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=4, fontsize=9)
    return panels[0]


def score_curves(
    curves: Mapping[str, Mapping[float, Any]],
    xlabel: str,
    chance: float | None = None,
    label: str = "accuracy",
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    r"""Scores over a setting, one line for each curve, with bars for their 95 % intervals.

    curves: label -> setting -> evaluation.Score. log: the settings on a log axis, ticked where they are.
    """
    ax = axes(ax)
    settings = sorted({x for curve in curves.values() for x in curve})
    gap = 1.0 if len(settings) < 2 else min(b - a for a, b in zip(settings, settings[1:], strict=False))
    for i, (name, curve) in enumerate(curves.items()):
        x = np.array(list(curve), dtype=float)
        # Intervals of several curves at one setting would hide each other: a small step aside.
        aside = (i - (len(curves) - 1) / 2) * 0.06
        at = x * (1 + aside) if log else x + aside * gap
        values = np.array([score.value for score in curve.values()])
        below = values - [score.low for score in curve.values()]
        above = np.array([score.high for score in curve.values()]) - values
        ax.errorbar(at, values, yerr=[below, above], fmt="o-", markersize=5, linewidth=1.2, capsize=3,
                    elinewidth=0.7, label=name)  # fmt: skip
    if log:
        ax.set_xscale("log")
        ax.minorticks_off()
    ax.set_xticks(settings, [f"{x:g}" for x in settings])
    if chance is not None:
        ax.axhline(chance, color="grey", linestyle="--", linewidth=1)
        ax.annotate("chance", (0, chance), xycoords=("axes fraction", "data"), xytext=(4, 3),
                    textcoords="offset points", fontsize=9, color="grey")  # fmt: skip
    ax.set_xlabel(xlabel)
    ax.set_ylabel(f"{label}, with its 95 % interval")
    if len(curves) > 1:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(curves), fontsize=9)
    return ax


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


_SOFT_PROMPTS = ("prompt tuning", "P-tuning", "prefix tuning", "LLaMA-Adapter")


def soft_prompts(n: int = 3, tokens: int = 5, layers: int = 5, top: int = 3) -> Sequence[Axes]:
    r"""Where virtual tokens stand: positions from left to right, the input at the foot and the blocks above it.

    Trained numbers are full, what the frozen model computes from a virtual token of the input is pale. A prefix and
    LLaMA-Adapter's prompts have no input below them: they stand in the blocks, the latter apart and behind a gate.
    """
    panels = plt.subplots(1, len(_SOFT_PROMPTS), figsize=(9.2, 2.9))[1]
    trained, computed, text = COLOURS[1], "#f6ddb8", "#dfe3e6"
    for ax, name in zip(panels, _SOFT_PROMPTS, strict=True):
        virtual = (0, 2, 3) if name == "P-tuning" else range(n)
        gap = 0.7 if name == "LLaMA-Adapter" else 0.0
        for level in range(layers + 1):
            for position in range(n + tokens):
                colour = text
                if position in virtual:
                    if name in ("prompt tuning", "P-tuning"):
                        colour = trained if level == 0 else computed
                    elif level == 0 or (gap and level <= layers - top):
                        continue
                    else:
                        colour = trained
                x = position + (gap if position >= n else 0)
                ax.add_patch(plt.Rectangle((x, level + (0.25 if level else 0)), 0.86, 0.8, color=colour))
            if gap and level > layers - top:
                ax.text(n + gap / 2 - 0.07, level + 0.65, "g", ha="center", va="center", fontsize=9)
        ax.set_title(name)
        ax.set_xlim(-0.2, n + tokens + 0.9)
        ax.set_ylim(-0.2, layers + 1.4)
        ax.set_xticks([])
        ax.set_yticks(
            [0.4, *(level + 0.65 for level in range(1, layers + 1))], ["input", *range(1, layers + 1)]
        )
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        if ax is not panels[0]:
            ax.set_yticks([])
    panels[0].set_ylabel("block")
    return panels
