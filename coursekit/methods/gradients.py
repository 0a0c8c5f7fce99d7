r"""Gradients for scores: of single examples, exact enough to be squared, also where a model computes in float16."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

#: The largest power of two that float16 can hold, down to none.
LOSS_SCALES = (2.0**15, 2.0**10, 2.0**5, 1.0)


def gradient(
    loss: Float[Tensor, ""], tensors: Sequence[Tensor], half: bool = False
) -> list[Float[Tensor, ...] | None]:
    r"""$\partial\,\text{loss} / \partial\,\theta$ of each tensor; None for one that the loss does not depend on.

    half: the model computes in float16, where a gradient below 6e-8 is 0. The loss is then multiplied by the largest
    of `LOSS_SCALES` that overflows nowhere, as for training, and the gradient divided by it again, in fp32.
    """
    if not half:
        return list(torch.autograd.grad(loss, tensors, allow_unused=True))
    for scale in LOSS_SCALES:
        found = torch.autograd.grad(
            loss, tensors, loss.new_tensor(scale), allow_unused=True, retain_graph=True
        )
        if all(g is None or g.isfinite().all() for g in found):
            break
    return [None if g is None else g.float() / scale for g in found]
