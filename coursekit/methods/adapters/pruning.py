r"""Pruning in a model: find the projections of an adapter, score them, replace them by pruned ones.

A score says how much each weight of the bottlenecks matters; the largest stay. Every one takes the projections
(down and up of each bottleneck in turn) and gives a tensor for each, in the shape of what trains there. `losses` runs
the task's batches through the model and yields a loss for each, `seed` is that of chance; most scores need neither.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from coursekit.errors import CourseError
from coursekit.methods.adapters.adapter import bottlenecks
from coursekit.methods.adapters.pruned import Projection, PrunedLinear, among_learned, learned
from coursekit.methods.mechanism.attachment import activate, attachment_of
from coursekit.methods.ranking import at_random, losses
from coursekit.modes import in_mode

Losses = Callable[[], Iterator[Tensor]]
Score = Callable[[Sequence[Projection], Losses, int], list[Tensor]]


def random(projections: Sequence[Projection], losses: Losses, seed: int) -> list[Tensor]:
    r"""Nothing about the weights: the baseline that every other score has to beat."""
    return at_random([learned(p) for p in projections], seed)


def magnitude(projections: Sequence[Projection], losses: Losses, seed: int) -> list[Tensor]:
    r"""$|w|$."""
    return [learned(p).detach().abs() for p in projections]


def snip(projections: Sequence[Projection], losses: Losses, seed: int) -> list[Tensor]:
    r"""$|g\,w|$ with $g = \partial L / \partial w$ (Lee et al. 2019).

    This is the slope of the loss when a factor in front of $w$ goes from 1 towards 0: to first order, how far the
    loss moves if the weight goes.
    """
    weights = [learned(p) for p in projections]
    return [(g * w.detach()).abs() for g, w in zip(gradient(weights, losses), weights, strict=True)]


def grasp(projections: Sequence[Projection], losses: Losses, seed: int) -> list[Tensor]:
    r"""$w\,(Hg)$, with its sign (Wang et al. 2020): what stays is what the size of the gradient rests on.

    $H$ is the second derivative of the loss; $Hg$ is the gradient of $g \cdot \bar g$ where $\bar g$ is a constant.
    """
    weights = [learned(p) for p in projections]
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        fixed = gradient(weights, losses)

        def slope(loss: Tensor) -> Tensor:
            g = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
            return sum((one * other).sum() for one, other in zip(g, fixed, strict=True))

        Hg = gradient(weights, lambda: map(slope, losses()))
    return [w.detach() * h for w, h in zip(weights, Hg, strict=True)]


def synflow(projections: Sequence[Projection], losses: Losses, seed: int) -> list[Tensor]:
    r"""$|g\,w|$ of $R = \mathbf{1}^\top |W_{up}|\,|W_{down}|\,\mathbf{1}$ (Tanaka et al. 2020): needs no data.

    All weights by their size, an input of ones, no biases and no non-linearity: $R$ adds up what can flow through a
    bottleneck. The score of a weight is the part that flows through it, $|D_{ij}| \sum_k |U_{ki}|$ and
    $|U_{ki}| \sum_j |D_{ij}|$. Written out like this, nothing is differentiated and no weight is touched.
    """
    scores = []
    for down, up in zip(projections[::2], projections[1::2], strict=True):
        D, U = down.weight.detach().abs(), up.weight.detach().abs()  # (r, d), (d, r)
        scores.append(among_learned(D * U.sum(0)[:, None], down))
        scores.append(among_learned(U * D.sum(1)[None, :], up))
    return scores


def gradient(weights: Sequence[Tensor], losses: Losses) -> list[Tensor]:
    r"""Gradient of the mean of `losses()`. Nobody's `.grad` is touched."""
    total, batches = [torch.zeros_like(w) for w in weights], 0
    for loss in losses():
        for sum_, part in zip(total, torch.autograd.grad(loss, weights, materialize_grads=True), strict=True):
            sum_ += part
        batches += 1
    return [sum_ / batches for sum_ in total]


SCORES: dict[str, Score] = {
    "random": random, "magnitude": magnitude, "snip": snip, "grasp": grasp, "synflow": synflow,
}  # fmt: skip
#: Those that look at the task.
NEED_DATA = ("snip", "grasp")


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
