r"""Priming: a short full fine-tuning of a copy shows how far each node of the feed-forward layers wants to move.

$$\Delta_i = \lVert W^{primed}_{i,:} - W_{i,:} \rVert_1, \quad i = 1, \dots, d_{out}$$

Vucetic et al. 2022 (arXiv:2205.01541). A node is one output of a linear layer: a row of W, and an entry of b.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.methods.mechanism.attachment import attached
from coursekit.methods.mechanism.merge import detach
from coursekit.methods.mechanism.modules import in_codes
from coursekit.methods.ranking import largest
from coursekit.methods.selective.parts import transposed


@dataclass(frozen=True)
class Priming:
    r"""How far a short training moved each node of the feed-forward layers.

    changes: path of the layer -> L1 norm of the change of each of its rows, (out,). In the model's order.
    """

    changes: dict[str, Float[Tensor, " out"]]

    def learners(self, share: float) -> tuple[tuple[int, ...], ...]:
        r"""For each layer the indices, rising, of so large a `share` of its nodes: those that moved most."""
        return tuple(
            tuple(largest([change], learners(share, len(change)))[0].nonzero().flatten().tolist())
            for change in self.changes.values()
        )


def learners(share: float, nodes: int) -> int:
    r"""How many of so many `nodes` learn."""
    return max(1, round(share * nodes))


def prime(model: nn.Module, paths: Sequence[str], train: Callable[[nn.Module], Any]) -> Priming:
    r"""`train` a copy of the bare `model`, all of it, and see how far each node of the layers at `paths` moved.

    Raises CourseError where nothing moved, or where a weight is not finite afterwards.
    """
    twin = copy.deepcopy(model)
    if attached(twin):
        detach(twin)
    twin.requires_grad_(True).train()
    if any(in_codes(twin.get_submodule(path)) for path in paths):
        raise CourseError(
            "weights in 4 bits do not move in priming: prime the model as it was before it was quantized, and "
            "attach(quantized, priming=priming)"
        )
    before = [twin.get_submodule(path).weight.detach().clone() for path in paths]
    train(twin)
    device, changes = next(model.parameters()).device, {}
    for path, old in zip(paths, before, strict=True):
        module = twin.get_submodule(path)
        # In fp32: a sum of 3,072 numbers in bf16 would stop growing.
        moved = (module.weight.detach().float() - old.float()).abs()  # (out, in), or (in, out) as stored
        changes[path] = moved.sum(0 if transposed(module) else 1).to(device)
    if not all(change.isfinite().all() for change in changes.values()):
        raise CourseError("priming has diverged, some weights are not finite: take a lower learning rate")
    if not any(change.any() for change in changes.values()):
        raise CourseError(
            "priming has moved no feed-forward weight: train the model that the function is given, for a few steps"
        )
    return Priming(changes)
