r"""Pruning in a model: find the projections of an adapter, score them, replace them by pruned ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.methods.adapters.adapter import bottlenecks
from coursekit.methods.adapters.pruned import Projection, PrunedLinear, learned
from coursekit.methods.adapters.pruning_scores import SCORES
from coursekit.methods.mechanism.attachment import activate, attachment_of
from coursekit.methods.ranking import losses
from coursekit.modes import in_mode

Batches = Sequence[dict[str, Tensor]]


def kept(total: int, pruned: float) -> int:
    r"""How many of `total` weights stay when the fraction `pruned` goes. (The word sparsity is avoided: in the paper
    it is the fraction that goes, in its script the fraction that stays.)
    """
    return total - round(pruned * total)


def projections(model: nn.Module, name: str) -> dict[str, Projection]:
    r"""down and up of each bottleneck of adapter `name`, in turn, by their names in a checkpoint."""
    return {
        f"{path}.{side}": getattr(bottleneck, side)
        for path, bottleneck in bottlenecks(model, name).items()
        for side in ("down", "up")
    }


@contextlib.contextmanager
def masked(weights: Sequence[Tensor], masks: Sequence[Tensor]) -> Iterator[None]:
    r"""With those entries of `weights` at 0 where a mask, of the same shape, is false; afterwards they are back."""
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, mask in zip(weights, masks, strict=True):
                weight.mul_(mask)
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)


def check_left(model: nn.Module, name: str, total: int, keep: int) -> None:
    r"""Raise CourseError where `keep` of the `total` weights of adapter `name` cannot stay."""
    now = sum(learned(layer).numel() for layer in projections(model, name).values())
    if keep < 1:
        raise CourseError(f"this would prune all of the {total:,} weights: prune less")
    if keep > now:
        raise CourseError(
            f"this would keep {keep:,} weights, and adapter {name!r} has only {now:,} left of {total:,}: pruned "
            "weights do not come back, so prune more, or start from the whole adapter"
        )


def score(model: nn.Module, name: str, by: str, batches: Batches, seed: int = 0) -> list[Tensor]:
    r"""The score `by` of all that trains in the projections of adapter `name`. Nothing of the model changes.

    Raises CourseError where the score can say nothing, because the up projections are still 0.
    """
    layers = list(projections(model, name).values())
    with _active(model, name):
        scores = SCORES[by](layers, lambda: losses(model, batches), seed)
    if not any(s.is_meta or s.any() for s in scores[1::2]):
        raise CourseError(
            f"every {by} score of the up projections is 0, because they start at 0: start both sides away "
            "from 0 (init='bert' or init='houlsby'), or train the adapter before it is pruned, or take score='random'"
        )
    return scores


def put(model: nn.Module, name: str, layers: Sequence[PrunedLinear]) -> None:
    r"""Put `layers`, in the order of `projections`, into their places, and train what they train."""
    trained = attachment_of(model).parameters[name]
    new = iter(layers)
    for bottleneck in bottlenecks(model, name).values():
        for side in ("down", "up"):
            old, layer = getattr(bottleneck, side), next(new)
            layer.train(old.training)
            layer.values.requires_grad_(learned(old).requires_grad)
            setattr(bottleneck, side, layer)
            where = next(i for i, parameter in enumerate(trained) if parameter is learned(old))
            trained[where] = layer.values


@contextlib.contextmanager
def _active(model: nn.Module, name: str) -> Iterator[None]:
    r"""Adapter `name` is active and has gradients, without dropout; afterwards all is as it was."""
    active = attachment_of(model).switch.active
    activate(model, name)
    try:
        with in_mode(model, training=False), torch.enable_grad():
            yield
    finally:
        activate(model, active)
