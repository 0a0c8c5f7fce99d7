r"""Selects the weights with the largest scores: exactly as many as asked for, by one threshold over all tensors.

With what scores need that look at the task: its batches, and their losses.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from coursekit.errors import CourseError


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


def checked_batches(score: str, need_data: Container[str], batches: Iterable[Any] | None) -> list[Any]:
    r"""`batches` as a list. Raises CourseError for a single one, and for none where `score` is one of `need_data`."""
    if isinstance(batches, Mapping):
        raise CourseError("batches: give a list of batches, such as [batch], and this is one batch")
    batches = list(batches or ())
    if score in need_data and not batches:
        raise CourseError(
            f"score={score!r} looks at the task: give some batches of it with labels, batches=[...], or take "
            "score='magnitude'"
        )
    return batches


def losses(model: nn.Module, batches: Iterable[Any], alone: bool = False) -> Iterator[Tensor]:
    r"""The loss of each batch, or of each example `alone`. Raises CourseError for batches without rows or labels."""
    device = next(model.parameters()).device
    for batch in batches:
        rows = len(next(iter(batch.values()), ())) if isinstance(batch, Mapping) else 0
        if not rows:
            raise CourseError("batches: each is a dict of tensors, with one row or more for each example")
        for row in range(rows) if alone else [None]:
            part = batch if row is None else {key: value[row : row + 1] for key, value in batch.items()}
            loss = model(**{key: value.to(device) for key, value in part.items()}).loss
            if loss is None:
                raise CourseError("a batch without labels has no loss to look at: give batches with labels")
            yield loss
