r"""The picture of an experiment: accuracies with their intervals, beside the baselines that they have to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from coursekit.plots.common import COLOURS, axes

#: Reference lines: the same colour and dash in every picture.
LINES: dict[str, dict[str, Any]] = {
    "constant answer": dict(color="grey", linestyle=":"),
    "linear probe": dict(color=COLOURS[1], linestyle="--"),
    "probe on the mean": dict(color=COLOURS[1], linestyle="--"),
    "probe on [CLS]": dict(color=COLOURS[1], linestyle=":"),
    "full fine-tuning": dict(color=COLOURS[2], linestyle="-"),
    "90 % of full fine-tuning": dict(color="black", linestyle="-", linewidth=2.5),  # where a page asks for it
}


def accuracies(
    found: Mapping[str, Any], lines: Mapping[str, float] | None = None, *, colours: Mapping[str, str] | None = None,
    seeds: Mapping[str, Sequence[float]] | None = None, label: str = "test accuracy",
) -> Axes:  # fmt: skip
    r"""One dot an arm, with its 95 % interval, in the order given.

    found: label -> `experiments.intervals.Interval`. lines: name -> accuracy, of `LINES` or others; what stands behind
    a comma, such as the steps, changes no colour. colours: label -> colour, such as its family's. seeds: label ->
    accuracies of the single seeds, as small dots. Each line's name stands at its upper end.
    """
    ax = axes(figsize=(7.0, 1.3 + 0.3 * len(found)))
    for row, (name, one) in enumerate(found.items()):
        colour = (colours or {}).get(name, COLOURS[0])
        if own := (seeds or {}).get(name):
            ax.plot(own, [row + 0.22] * len(own), ".", color=colour, markersize=4, alpha=0.7)
        ax.errorbar(
            one.value, row, xerr=[[one.value - one.low], [one.high - one.value]], fmt="o", capsize=3, markersize=5,
            color=colour,
        )  # fmt: skip
    for name, value in (lines or {}).items():
        style = dict(linewidth=1.2) | LINES.get(name.partition(",")[0], dict(color="grey", linestyle="-."))
        ax.axvline(value, label=name, zorder=0, **style)
    ax.set_yticks(range(len(found)), list(found))
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_xlabel(f"{label}, with its 95 % interval")
    if lines:
        _name_lines(ax, lines)
    return ax


def _name_lines(ax: Axes, lines: Mapping[str, float]) -> None:
    r"""The name of each line at its upper end, a row higher where it would touch the one on its left."""
    low, high = ax.get_xlim()
    ends: list[float] = []  # of what is written in each row, as a share of the axes
    for name, value in sorted(lines.items(), key=lambda line: line[1]):
        at, half = (value - low) / (high - low), 0.0075 * len(name)
        row = next((row for row, end in enumerate(ends) if end < at - half), len(ends))
        ends[row : row + 1] = [at + half + 0.02]
        colour = to_rgb(LINES.get(name.partition(",")[0], {}).get("color", "grey"))
        ax.annotate(
            name + "\n" * row, (value, 1), xycoords=ax.get_xaxis_transform(), xytext=(0, 3), fontsize=9,
            textcoords="offset points", ha="center", va="bottom", color=[0.75 * part for part in colour],
        )  # fmt: skip
