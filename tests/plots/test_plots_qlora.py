r"""Two models beside each other."""

from __future__ import annotations

import torch
from matplotlib.colors import same_color

from coursekit.plots import qlora as plots_qlora
from coursekit.plots.hybrid import FAMILIES


def test_two_models_side_by_side():
    losses = {"LoRA": [3.0, 2.0, 1.5, 1.2], "QLoRA": [3.1, 2.1, 1.4, 1.3]}
    nats = {"LoRA": torch.tensor([1.0, 2.0, 0.5]), "QLoRA": torch.tensor([1.1, 1.8, 0.6])}
    left, right = plots_qlora.side_by_side(losses, nats, "nats for the right grade")
    assert right.collections[0].get_offsets().tolist() == torch.stack(list(nats.values()), 1).tolist()
    assert (right.get_xlabel(), right.get_ylabel()) == ("LoRA", "QLoRA")
    assert all(tick == int(tick) for tick in left.get_xticks())
    assert [line.get_linestyle() for line in left.lines] == ["-", "-", "--", "--"], "each step and the means"
    assert all(same_color(line.get_color(), FAMILIES["reparameterised"]) for line in left.lines)
    assert [line.get_linestyle() for line in left.get_legend().get_lines()] == ["-", "--"]
