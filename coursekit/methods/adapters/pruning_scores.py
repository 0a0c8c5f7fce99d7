r"""Scores for pruning: how much each weight of the bottlenecks matters. The largest stay.

Every function takes the projections (down and up of each bottleneck in turn) and gives a tensor for each, in the
shape of what trains there. `losses` runs the task's batches through the model and yields a loss for each, `seed` is
that of chance; most scores need neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from coursekit.methods.adapters.pruned import Projection, among_learned, learned
from coursekit.methods.ranking import at_random

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
