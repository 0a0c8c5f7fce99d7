r"""Runs side by side: accuracy over the learning rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from coursekit.plots import alt
from coursekit.plots.common import COLOURS, axes
from coursekit.plots.experiments import LINES

#: Curves of one colour, one after the other.
_DASHES = ("-", "--", ":", "-.")


def by_learning_rate(
    curves: Mapping[str, Mapping[float, float]],
    once: Mapping[str, Collection[float]] | None = None,
    *,
    colours: Mapping[str, str] | None = None,
    lines: Mapping[str, float] | None = None,
    seeds: Mapping[str, Mapping[float, Sequence[float]]] | None = None,
    named: Mapping[str, tuple[float, float]] | None = None,
    apart: float = 1.0,
) -> Axes:
    r"""Validation accuracy over the learning rate, a line for each of `curves`, a ring around the one chosen.

    curves: label -> learning rate -> accuracy. once: label -> rates that one seed alone was run with: hollow points,
    and not chosen. colours: label -> colour, such as its family's; curves of one colour differ in their dashes. lines:
    name -> accuracy, of `plots.experiments.LINES`. seeds: label -> rate -> accuracies of its seeds: small dots,
    beside each other's. named: label -> where its name stands, in points of a page from its ring; there is no legend
    then. apart: the factor along x between neighbouring curves, where their points would lie on one another.
    """
    ax, once = axes(), {} if once is None else once
    own = dict(zip(curves, cycle(COLOURS), strict=False)) | dict(colours or {})
    drawn: Counter[str] = Counter()
    rings: dict[str, tuple[float, float]] = {}
    hollow = dict(marker="o", markersize=5, markerfacecolor="white", linestyle="none", zorder=3)
    ring = dict(marker="o", markersize=12, fillstyle="none", linestyle="none")
    shift = {label: apart ** (n - (len(curves) - 1) / 2) for n, label in enumerate(curves)}
    for label, curve in curves.items():
        rates, colour, by = sorted(curve), own[label], shift[label]
        line = dict(color=colour, linestyle=_DASHES[drawn[colour] % len(_DASHES)], marker="o", markersize=4)
        drawn[colour] += 1
        ax.plot([rate * by for rate in rates], [curve[rate] for rate in rates], label=label, **line)
        single = [rate for rate in rates if rate in once.get(label, ())]
        if single:
            ax.plot([rate * by for rate in single], [curve[rate] for rate in single], color=colour, **hollow)
        best = max((rate for rate in rates if rate not in single), key=curve.__getitem__)
        ax.plot(best * by, curve[best], color=colour, **ring)
        rings[label] = best * by, curve[best]
    dot = dict(marker="o", markersize=3, alpha=0.5, linestyle="none")
    for n, (label, found) in enumerate((seeds or {}).items()):
        # So that no curve's dots cover another's.
        beside = shift[label] if apart != 1 else 1.08 ** (n - (len(seeds or {}) - 1) / 2)
        for rate, values in found.items():
            ax.plot([rate * beside] * len(values), values, color=own[label], **dot)
    alt.says(ax, "; ".join(_of_seeds(label, found) for label, found in (seeds or {}).items()))
    ax.set_xscale("log")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("validation accuracy")
    for name, value in (lines or {}).items():
        ax.axhline(value, linewidth=1.2, label=name, zorder=0, **LINES[name])
    if named is not None:
        _named(ax, {label: (rings[label], own[label], at) for label, at in named.items()}, lines or {})
        return ax
    signs = {"chosen": ring}
    if any(once.get(label) for label in curves):
        signs["one seed, too far behind to be run again"] = hollow
    if seeds:
        signs["a seed"] = dot
    handles = [
        *ax.get_legend_handles_labels()[0],
        *(Line2D([], [], color="grey", label=n, **s) for n, s in signs.items()),
    ]
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, fontsize=8)
    return ax


def _of_seeds(label: str, found: Mapping[float, Sequence[float]]) -> str:
    told = (f"at {rate:g}: " + ", ".join(f"{value:.3g}" for value in values) for rate, values in found.items())
    return f"seeds of {label} {'; '.join(told)}"


def _named(ax: Axes, curves: Mapping[str, Any], lines: Mapping[str, float]) -> None:
    r"""Names at the rings, and over the reference lines at their left."""
    for label, (ring, colour, (x, y)) in curves.items():
        ax.annotate(label, ring, xytext=(x, y), textcoords="offset points", fontsize=9, color=colour, va="center",
                    ha="right" if x < 0 else "left" if x else "center")  # fmt: skip
    for name, value in lines.items():
        grey = dict(fontsize=9, color=LINES[name]["color"], va="bottom", textcoords="offset points")
        ax.annotate(name, (0, value), xytext=(4, 2), xycoords=("axes fraction", "data"), **grey)
