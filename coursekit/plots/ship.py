r"""Pictures of ways of shipping beside their noise floor, of several adapters in one batch, and of the rows of a file
for llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from coursekit.plots.alt import says
from coursekit.plots.common import COLOURS, axes, without_axes

#: The base has the grey of all frozen parts; adapters have these, in the order in which they first appear.
_FROZEN, _LINE, _ADAPTERS = "#c9ced2", "#444444", (COLOURS[1], COLOURS[4], COLOURS[3], COLOURS[5])


def floors(ways: Mapping[str, tuple[float, float]], most: float, kept: Mapping[str, str]) -> Axes:
    r"""How far each way is from the exact model, over all tokens and at the last ones, in its noise floors.

    most: so many floors are still accepted, the end of the green. kept: how many of each way's answers stay, written at
    the right.
    """
    ax = axes(figsize=(7.6, 1.0 + 0.36 * len(ways)))
    colours, means = (COLOURS[0], COLOURS[1]), ("all tokens", "last tokens")
    for row, pair in enumerate(ways.values()):
        for colour, far, apart in zip(colours, pair, (-0.12, 0.12), strict=True):  # equal ones would hide each other
            ax.plot(far, row + apart, "o", color=colour, markersize=5)
    order = sorted(range(2), key=pair.__getitem__)  # beside the lowest two dots stand the names of all
    for i, ha, shift in zip(order, ("right", "left"), (-8, 8), strict=True):
        ax.annotate(means[i], (pair[i], row + (-0.12, 0.12)[i]), (shift, 0), textcoords="offset points", ha=ha,
                    va="center", fontsize=9, color=colours[i])  # fmt: skip
    ax.set_xscale("log")
    everything = [far for pair in ways.values() for far in pair if far > 0]
    ax.set_xlim(min(everything) / 2, 15 * max(everything))
    ax.axvspan(ax.get_xlim()[0], most, color=COLOURS[3], alpha=0.2, linewidth=0, zorder=0)
    ax.axvline(1, color="grey", linestyle="--", linewidth=1, zorder=0)
    written = {"xycoords": ("data", "axes fraction"), "va": "bottom", "fontsize": 9}
    ax.annotate("floor ", (1, 1.0), ha="right", color="grey", **written)
    ax.annotate(f" accepted: up to {most:g}", (most, 1.0), ha="left", color=COLOURS[3], **written)
    for row, way in enumerate(ways):
        ax.annotate(kept[way], (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    ax.annotate("same grade", (1.01, 1.0), xycoords="axes fraction", va="bottom", fontsize=9)
    ax.set_yticks(range(len(ways)), list(ways))
    ax.set_ylim(len(ways) - 0.5, -0.6)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("mean divergence from the exact model (floors)")
    told = "; ".join(f"{way} {one:.2g} and {other:.2g}, {kept[way]}" for way, (one, other) in ways.items())
    says(ax.figure, f"Mean divergence from the exact model in noise floors, over all tokens and over the last ones, "
                    f"and grades that stay; accepted are up to {most:g}: {told}.")  # fmt: skip
    return ax


def mixed_batch(
    names: Sequence[str | None], d_in: int, d_out: int, ranks: Mapping[str, int], scales: Mapping[str, float]
) -> Axes:
    r"""A batch through one layer: all rows through $W$ at once, those of an adapter through its $A$ and $B$, too.

    names: the adapter of each row, None for the bare base, as `methods.mixed_batch` has them. ranks, scales: of each
    adapter.
    """
    adapters = list(dict.fromkeys(name for name in names if name is not None))
    colours = dict(zip(adapters, _ADAPTERS, strict=False)) | {None: _FROZEN}
    ax = axes(figsize=(8.0, 0.9 + 0.9 * len(adapters)))
    n, top = len(names), 0.36 * len(names)

    def line(xs: Sequence[float], ys: Sequence[float], colour: str = _LINE) -> None:
        ax.plot(xs, ys, color=colour, linewidth=1)

    def arrow(x0: float, x1: float, y: float, text: str = "", colour: str = _LINE) -> None:
        ax.annotate("", (x1, y), (x0, y), arrowprops=dict(arrowstyle="->", color=colour, shrinkA=0, shrinkB=0))
        ax.text((x0 + x1) / 2, y + 0.04, text, ha="center", va="bottom", fontsize=9, color=_LINE)

    def rows(x: float, text: str) -> None:
        for i, name in enumerate(names):
            ax.add_patch(plt.Rectangle((x, top - 0.36 * (i + 1)), 0.9, 0.3, color=colours[name]))
            ax.text(x + 0.45, top - 0.36 * i - 0.21, name or "base", ha="center", va="center", fontsize=9)
        ax.text(x + 0.45, top + 0.1, text, ha="center", va="bottom", fontsize=9)

    def box(x: float, y: float, width: float, colour: str, text: str) -> None:
        ax.add_patch(plt.Rectangle((x, y - thick / 2), width, thick, color=colour))
        ax.text(x + width / 2, y, text, ha="center", va="center", fontsize=9)

    rows(0, f"x: ({n}, seq, {d_in})")
    rows(8.6, f"h: ({n}, seq, {d_out})")
    high = top - 0.3
    step = (high - 0.3) / len(adapters)
    thick = min(0.6, 0.75 * step)
    line([0.95, 1.0, 1.0, 0.95], [top - 0.06, top - 0.06, 0, 0])  # a bracket beside all rows
    arrow(1.0, 3.4, high, f"all {n} rows")
    box(3.4, high, 1.9, _FROZEN, f"$W$, frozen: {d_out} × {d_in}")
    arrow(5.3, 8.45, high, f"({n}, seq, {d_out})")
    line([8.55, 8.45, 8.45, 8.55], [top - 0.06, top - 0.06, 0, 0])
    for i, name in enumerate(adapters, start=1):
        y, its = high - i * step, [k for k, other in enumerate(names, 1) if other == name]
        r = ranks[name]
        bus, back, own = 1.0 + 0.22 * i, 8.2 - 0.22 * i, [top - 0.36 * k + 0.15 for k in its]
        for height in own:  # from each row of its colour, and back to it
            line([0.9, bus], [height, height], colours[name])
            line([back, 8.45], [height, height], colours[name])
            ax.text(8.45, height, "⊕", ha="center", va="center", fontsize=11, color=_LINE)
        for x in (bus, back):
            line([x, x], [min(*own, y), max(*own, y)], colours[name])
        arrow(bus, 2.8, y, f"rows {', '.join(map(str, its))}", colours[name])
        box(2.8, y, 1.2, colours[name], f"A: {r} × {d_in}")
        arrow(4.0, 5.1, y, f"({len(its)}, seq, {r})")
        box(5.1, y, 1.2, colours[name], f"B: {d_out} × {r}")
        ax.text(6.65, y, f"× {scales[name]:.3g}", ha="center", va="center", fontsize=9)
        line([6.95, back], [y, y], colours[name])
    says(ax, f"{n} rows, {', '.join(name or 'base' for name in names)}, go together through W; those of "
             f"{' and of '.join(adapters)} also through A and B of their own, whose output, times "
             f"{' and '.join(f'{scales[name]:.3g}' for name in adapters)}, is added to the same rows")  # fmt: skip
    return without_axes(ax, (-0.1, 9.6), (-0.1, top + 0.4))


def row_order(order: Sequence[int]) -> Axes:
    r"""The rows of one head in transformers' order and in llama.cpp's, arcs between those that are rotated together.

    order: the rows of transformers as they stand in llama.cpp's file.
    """
    n, half = len(order), len(order) // 2
    ax = axes(figsize=(5.6, 0.34 * n + 0.8))
    for x, rows, side in ((0, list(range(n)), -1), (3, list(order), 1)):
        for place, row in enumerate(rows):
            ax.add_patch(plt.Rectangle((x, -place - 0.4), 1, 0.8, color=COLOURS[row % half], alpha=0.55))
            ax.text(x + 0.5, -place, f"row {row}", ha="center", va="center", fontsize=9)
            if row < half:
                at = x + (side > 0)
                one, other = (at, -place), (at, -rows.index(row + half))
                arc = dict(arrowstyle="-", color=COLOURS[row], connectionstyle=f"arc3,rad={side * 0.35}")
                ax.annotate("", one, other, arrowprops=arc | dict(shrinkA=0, shrinkB=0))
        ax.text(x + 0.5, 0.6, "transformers" if side < 0 else "llama.cpp", ha="center", va="bottom", fontsize=10)
    for place, row in enumerate(order):
        ax.plot([1.05, 2.95], [-row, -place], color=COLOURS[row % half], linewidth=1)
    pairs = ", ".join(f"{i} with {i + half}" for i in range(half))
    says(ax, f"The {n} rows of transformers stand in llama.cpp in the order {', '.join(map(str, order))}; "
             f"rotated together are {pairs}")  # fmt: skip
    return without_axes(ax, (-1.3, 5.3), (-n + 0.3, 1.3))
