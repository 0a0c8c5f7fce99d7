r"""The lecture's map of fine-tuning methods, with the ones that a notebook is about marked on it."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from coursekit.errors import one_of
from coursekit.plots.common import axes
from coursekit.plots.hybrid import FAMILIES

#: Family -> what it does to the model, and its methods in the order of the course.
MAP = {
    "additive": (
        "adds new parameters",
        ("adapters", "(IA)³", "prompt tuning", "prefix tuning", "P-tuning", "LLaMA-Adapter"),
    ),
    "selective": ("trains a few of the model's own", ("BitFit", "top layers", "FishMask", "FAR")),
    "reparameterised": ("trains a compact update", ("intrinsic dimension", "LoRA", "QLoRA")),
    "hybrid": ("combines several of these", ("MAM", "UniPELT", "Compacter")),
}


def lecture_map(*here: str, ax: Axes | None = None) -> Axes:
    r"""The four families with their methods. here: the names of those that this notebook is about.

    Raises CourseError for a name that is not on the map.
    """
    known = [name for _, names in MAP.values() for name in names]
    for name in here:
        one_of("method", name, known)
    ax = axes(ax, figsize=(8.2, 3.1))
    most = max(len(names) for _, names in MAP.values())
    for x, (family, (does, names)) in enumerate(MAP.items()):
        colour = FAMILIES[family]
        ax.add_patch(plt.Rectangle((x + 0.03, 0), 0.94, 1.0, color=colour))
        ax.text(x + 0.5, 0.34, family, ha="center", va="center", color="white", fontsize=10, weight="bold")
        ax.text(x + 0.5, 0.72, does, ha="center", va="center", color="white", fontsize=7.5)
        for row, name in enumerate(names):
            marked = name in here
            face, edge = colour if marked else "#f0f1f2", 1.6 if marked else 0
            place = (x + 0.03, 1.12 + 0.72 * row)
            ax.add_patch(plt.Rectangle(place, 0.94, 0.6, facecolor=face, edgecolor=colour, linewidth=edge))
            ax.text(x + 0.5, 1.42 + 0.72 * row, f"{name} ◂ here" if marked else name, ha="center", va="center",
                    color="white" if marked else "black", fontsize=9)  # fmt: skip
    ax.set_xlim(0, len(MAP))
    ax.set_ylim(1.15 + 0.72 * most, -0.05)
    ax.axis("off")
    return ax
