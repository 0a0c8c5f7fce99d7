r"""Pictures of what (IA)³ learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from coursekit.plots.common import COLOURS


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
