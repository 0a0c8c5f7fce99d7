r"""How far an update moves weights towards their next level, and what roundings let through of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from coursekit.plots.alt import says
from coursekit.plots.common import COLOURS, axes, name_lines


def rounded_back(share: Float[Tensor, " weights"]) -> Axes:
    r"""How far an update takes weights to their next level: its histogram on a log axis. Up to the border, halfway, a
    weight is rounded back; the legend says how many get beyond it.

    share: |ΔW| of each weight, with the distance to the level that it moves towards as 1.
    """
    ax, edges = axes(figsize=(8.2, 2.7)), np.linspace(-5, 1, 121)
    counts = torch.histc(share.log10(), len(edges) - 1, *edges[[0, -1]]).cpu().numpy()
    beyond = (share > 0.5).count_nonzero().item() / len(share)
    many = f"{beyond:.1%} of the weights" if beyond >= 1e-3 else f"{1e6 * beyond:.1f} weights in a million"
    said = f"ΔW: {many} beyond halfway"
    ax.stairs(counts / len(share), 10**edges, fill=True, alpha=0.6, color=COLOURS[1], label=said)
    ax.axvline(0.5, color="#444444", linestyle="--", linewidth=1)
    for text, at, side in (("rounded back", 0.46, "right"), ("to the next level", 0.54, "left")):
        ax.annotate(text, (at, 0.97), xycoords=("data", "axes fraction"), ha=side, va="top", fontsize=9)
    ax.set_xscale("log")
    ax.set_xlim(1e-4, 10 ** edges[-1])  # hardly any weight moves less
    ax.set_ylim(0, 1.25 * ax.get_ylim()[1])  # room for the words at the border
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter(lambda part, _: f"{part:.0%}")
    ax.set_xlabel("move of a weight, with the distance to its next level as 1")
    ax.set_ylabel("share of the weights")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=9)
    says(ax, said)
    return ax


def comes_through(found: Mapping[str, Mapping[float, float]]) -> Axes:
    r"""What roundings to levels let through of an update, against its size.

    found: name of a rounding -> {times the update: the share that arrives}.
    """
    ax = axes(figsize=(7.0, 3.0))
    colours = (COLOURS[1], COLOURS[0], *COLOURS[2:])
    for (name, arrived), colour, mark in zip(found.items(), colours, "os^Dvx", strict=False):
        ax.plot(list(arrived), list(arrived.values()), f"{mark}-", color=colour, label=name)
    ax.set_xscale("log")
    ax.set_xticks(sizes := sorted({size for arrived in found.values() for size in arrived}))
    ax.minorticks_off()
    ax.set_xticklabels(f"{size:g}×" for size in sizes)
    ax.set_xlabel("size of the update, as a multiple of 08's")
    ax.set_ylabel("share of it that arrives")
    return name_lines(ax)
