r"""Pictures of where virtual tokens stand."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from coursekit.plots.common import COLOURS

_SOFT_PROMPTS = ("prompt tuning", "P-tuning", "prefix tuning", "LLaMA-Adapter")


def soft_prompt_places(n: int = 3, tokens: int = 5, layers: int = 5, top: int = 3) -> Sequence[Axes]:
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
