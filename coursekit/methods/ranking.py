r"""Selects the weights with the largest scores: exactly as many as asked for, by one threshold over all tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def largest(scores: list[Tensor], keep: int) -> list[Bool[Tensor, "*shape"]]:
    r"""For each tensor of scores a mask: true where the score is among the `keep` largest of all tensors together.

    One threshold for all, so a tensor that matters more keeps more. Of equal scores the earlier stays: the number is
    exact, and two runs agree.
    """
    flat = torch.cat([score.detach().flatten() for score in scores])
    if flat.is_meta:  # no values to compare: only the number counts there
        chosen = torch.arange(len(flat), device="cpu") < keep
    else:
        # The threshold alone is found in one pass; sorting the weights of a whole model takes several times as long.
        smallest = flat.topk(keep, sorted=False).values.min() if keep else torch.inf
        chosen = flat > smallest
        chosen[(flat == smallest).nonzero().flatten()[: keep - int(chosen.sum())]] = True
    parts = chosen.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def at_random(tensors: Sequence[Tensor], seed: int) -> list[Float[Tensor, "*shape"]]:
    r"""Scores drawn from `seed` for each of `tensors`: the same ones in every precision and on every device."""
    random = torch.Generator().manual_seed(seed)
    return [torch.rand(tensor.shape, generator=random).to(tensor.device) for tensor in tensors]
