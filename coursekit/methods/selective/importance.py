r"""Scores for masks: how much each parameter of the model matters. Those with the largest train.

Every function takes the tensors to choose from and gives a tensor for each, in its shape.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.methods.mechanism.attachment import attached, disabled
from coursekit.methods.ranking import at_random, losses
from coursekit.modes import in_mode

Batches = Sequence[dict[str, Tensor]]


#: The largest power of two that float16 can hold, down to none.
LOSS_SCALES = (2.0**15, 2.0**10, 2.0**5, 1.0)


def gradient(loss: Float[Tensor, ""], tensors: Sequence[Tensor], half: bool = False) -> list[Float[Tensor, ...] | None]:
    r"""$\partial\,\text{loss} / \partial\,\theta$ of each tensor; None for one that the loss does not depend on.

    half: the model computes in float16, where a gradient below 6e-8 is 0. The loss is then multiplied by the largest
    of `LOSS_SCALES` that overflows nowhere, as for training, and the gradient divided by it again, in fp32.
    """
    if not half:
        return list(torch.autograd.grad(loss, tensors, allow_unused=True))
    for scale in LOSS_SCALES:
        found = torch.autograd.grad(loss, tensors, loss.new_tensor(scale), allow_unused=True, retain_graph=True)
        if all(g is None or g.isfinite().all() for g in found):
            break
    return [None if g is None else g.float() / scale for g in found]


def fisher(model: nn.Module, tensors: Sequence[nn.Parameter], batches: Batches, seed: int) -> list[Tensor]:
    r"""$\frac{1}{N} \sum_{i=1}^N \bigl(\nabla_\theta L_i\bigr)^2$ over N examples (Sung et al. 2021, equation 5).

    The mean of squares, not the square of the mean: a batch's own gradient, in which examples cancel each other, would
    not do. So every example goes through the model alone. $L_i$ is its loss with the label that it has, the
    "empirical" Fisher information. A model in float16 gets a loss scale: its small gradients would be 0 otherwise.
    Raises CourseError for batches without labels.
    """
    total, examples = [torch.zeros_like(t, dtype=_wide(t)) for t in tensors], 0
    half = any(p.dtype == torch.float16 for p in model.parameters())
    with _trainable(model, tensors):
        for loss in losses(model, batches, alone=True):
            for sum_, g in zip(total, gradient(loss, tensors, half), strict=True):
                if g is not None:
                    sum_ += g.to(sum_.dtype).square()
            examples += 1
    return [sum_ / examples for sum_ in total]


def magnitude(model: nn.Module, tensors: Sequence[nn.Parameter], batches: Batches, seed: int) -> list[Tensor]:
    r"""$|\theta|$: the largest parameters, whatever the task."""
    return [tensor.detach().abs() for tensor in tensors]


def random(model: nn.Module, tensors: Sequence[nn.Parameter], batches: Batches, seed: int) -> list[Tensor]:
    r"""Nothing about the model: what every other score has to beat."""
    return at_random(tensors, seed)


SCORES = {"fisher": fisher, "magnitude": magnitude, "random": random}
#: Those that look at the task.
NEED_DATA = ("fisher",)


def telling(name: str, scores: list[Tensor]) -> None:
    r"""Raise CourseError where scores that look at the task say nothing about it."""
    if not all(torch.isfinite(score).all() for score in scores):
        raise CourseError(
            f"some {name} scores are not finite: the loss of these examples overflows; score in fp32, or give others"
        )
    if not any(score.any() for score in scores):
        raise CourseError(
            f"every {name} score is 0: these examples leave the loss as it is, whatever changes; give others"
        )


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


@contextlib.contextmanager
def _trainable(model: nn.Module, tensors: Sequence[nn.Parameter]) -> Iterator[None]:
    r"""The bare model computes, without dropout, and `tensors` have gradients; afterwards all is as it was."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    bare = disabled(model) if attached(model) else contextlib.nullcontext()
    try:
        model.requires_grad_(False)
        for tensor in tensors:
            tensor.requires_grad_(True)
        with torch.enable_grad(), bare, in_mode(model, training=False):
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
