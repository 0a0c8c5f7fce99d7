r"""Runs side by side: accuracy over the learning rate and over costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from coursekit.plots import alt
from coursekit.plots.common import COLOURS, axes, whiskers
from coursekit.plots.experiments import LINES
from coursekit.plots.hybrid import FAMILIES

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
) -> Axes:
    r"""Validation accuracy over the learning rate, a line for each of `curves`, a ring around the one chosen.

    curves: label -> learning rate -> accuracy. once: label -> rates that one seed alone was run with: hollow points,
    and not chosen. colours: label -> colour, such as its family's; curves of one colour differ in their dashes. lines:
    name -> accuracy, of `plots.experiments.LINES`. seeds: label -> rate -> accuracies of its seeds: small dots,
    beside each other's. named: label -> where its name stands, in points of a page from its ring; there is no legend
    then.
    """
    ax, once = axes(), {} if once is None else once
    own = dict(zip(curves, cycle(COLOURS), strict=False)) | dict(colours or {})
    drawn: Counter[str] = Counter()
    rings: dict[str, tuple[float, float]] = {}
    hollow = dict(marker="o", markersize=5, markerfacecolor="white", linestyle="none", zorder=3)
    ring = dict(marker="o", markersize=12, fillstyle="none", linestyle="none")
    for label, curve in curves.items():
        rates, colour = sorted(curve), own[label]
        line = dict(color=colour, linestyle=_DASHES[drawn[colour] % len(_DASHES)], marker="o", markersize=4)
        drawn[colour] += 1
        ax.plot(rates, [curve[rate] for rate in rates], label=label, **line)
        single = [rate for rate in rates if rate in once.get(label, ())]
        if single:
            ax.plot(single, [curve[rate] for rate in single], color=colour, **hollow)
        best = max((rate for rate in rates if rate not in single), key=curve.__getitem__)
        ax.plot(best, curve[best], color=colour, **ring)
        rings[label] = best, curve[best]
    dot = dict(marker="o", markersize=3, alpha=0.5, linestyle="none")
    for n, (label, found) in enumerate((seeds or {}).items()):
        beside = 1.08 ** (n - (len(seeds or {}) - 1) / 2)  # so that no curve's dots cover another's
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


def differences_by_cost(
    families: Mapping[str, str],
    panels: Mapping[str, tuple[Mapping[str, Any], Mapping[str, float], float, str, Sequence[str]]],
    *,
    margin: float,
    low: float,
    named: Sequence[Mapping[str, tuple[float, float]]] = (),
) -> Sequence[Axes]:
    r"""Differences to the leader in points over what methods cost: a panel a cost, a dot a method.

    families: method -> one of `plots.hybrid.FAMILIES`. panels: label of the axis -> (method -> its difference to the
    leader, an `experiments.intervals.Difference`; method -> cost; the most that a budget allows; who leads; who is
    taken, the choice first). Filled: not inferior. Leader and taken have rings and names, the taken their
    intervals; a method without a cost is not drawn. margin: in points, below which nothing is not inferior: a band up
    to 0. low: where the axis begins; what lies farther down is an arrow at its edge. named: for each panel, method ->
    where its name stands, in points of a page from its dot; those that are taken stand at its left without.
    """
    size = (4.6 * len(panels), 4.2) if len(panels) > 1 else (7.0, 3.8)
    figure, row = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    drawn = {name for found, cost, _, leads, _ in panels.values() for name in [*found, leads] if name in cost}
    used = [family for family in FAMILIES if family in {families[name] for name in drawn}]
    told = []
    for at, (ax, (label, (found, cost, most, leads, taken))) in enumerate(zip(row[0], panels.items(), strict=True)):
        ax.axhspan(-margin, 0, color="#e9eaec", zorder=-1)
        ax.axhline(0, color="#777777", linestyle="--", linewidth=1, zorder=0)
        for family in used:
            for name in (name for name in found if families[name] == family and name in cost):
                points, colour = 100 * found[name].value, FAMILIES[family]
                ax.scatter(cost[name], max(points, low), marker="o" if points >= low else "v", edgecolors=colour, s=24,
                           facecolors=colour if found[name].non_inferior else "white", zorder=3,
                           clip_on=False)  # fmt: skip
        ring = dict(markersize=11, markerfacecolor="none", capsize=2, elinewidth=0.9)
        ax.errorbar(cost[leads], 0, color=FAMILIES[families[leads]], fmt="o", **ring)
        ax.plot(cost[leads], 0, "o", color=FAMILIES[families[leads]], markersize=5)
        for name in taken:
            value, ends = whiskers([found[name]], 100)
            ax.errorbar(cost[name], value, yerr=ends, color=FAMILIES[families[name]], fmt="o", **ring)
        away = {leads: (0, 9)} | {name: (-8, 0) for name in taken} | dict(named[at] if at < len(named) else {})
        for name, (x, y) in away.items():
            word = ": leads" if name == leads else ": taken" if [name] == [*taken][:1] else ""
            height = 0 if name == leads else max(100 * found[name].value, low)
            lead = dict(arrowstyle="-", color="grey", lw=0.7) if abs(x) + abs(y) > 12 else None
            ax.annotate(name + word, (cost[name], height), xytext=(x, y), textcoords="offset points", fontsize=8,
                        ha="right" if x < -7 else "left" if x > 7 else "center", va="center",
                        arrowprops=lead)  # fmt: skip
        ax.axvline(most, color="grey", linestyle=":", linewidth=1)
        if max(cost.values()) > 20 * min(cost.values()):
            ax.set_xscale("log")
        ax.margins(x=0.1)
        ax.set_xlabel(f"{label} (dotted: at most {most:g})")
        one = taken[0]
        told.append(
            f"{label}, {len(cost.keys() & {*found, leads})} methods from {min(cost.values()):,.0f} to "
            f"{max(cost.values()):,.0f}, at most {most:g}: {leads} leads at {cost[leads]:.0f}, {one} is taken, at "
            f"{cost[one]:.0f} with {100 * found[one].value:+.1f}."
        )
    row[0][0].set_ylim(low)
    row[0][0].set_ylabel("test accuracy minus the leader's, points")
    marks = [Line2D([], [], marker="o", linestyle="", color=FAMILIES[family], label=family) for family in used]
    figure.legend(handles=marks, loc="outside upper left", ncols=len(marks), fontsize=8)
    alt.says(figure, f"Test accuracy minus the leader's. {' '.join(told)}")
    return row[0]
