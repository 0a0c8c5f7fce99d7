r"""Two models beside each other: their training losses, and what each test sentence costs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from coursekit.plots.common import loss_curve
from coursekit.plots.hybrid import FAMILIES


def side_by_side(
    losses: Mapping[str, Sequence[float]], nats: Mapping[str, Any], what: str, smooth: int = 3
) -> Sequence[Axes]:
    r"""Two models that learn the same: training losses on the left, each test sentence as a dot on the right.

    losses: label -> one for each step, equally many for both; both have the colour of LoRA's family, and the second is
    dashed. nats: the two labels -> one value for each sentence. what: what the nats are of.
    """
    (one, other), (_, (left, right)) = nats, plt.subplots(1, 2, figsize=(9, 3.4))
    loss_curve(losses, smooth=smooth, ax=left)
    first = len(left.lines) // len(losses)  # lines of the first model: each step, and their mean
    for number, line in enumerate(left.lines):
        line.set(color=FAMILIES["reparameterised"], linestyle="-" if number < first else "--")
    left.legend()
    left.set_title("training loss, same batches")
    right.scatter(np.asarray(nats[one]), np.asarray(nats[other]), s=12, alpha=0.6)
    right.axline((0, 0), slope=1, color="grey", linewidth=1)
    right.set_xlabel(one)
    right.set_ylabel(other)
    right.set_title(f"{what}, a dot is a test sentence")
    return left, right
