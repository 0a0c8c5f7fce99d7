r"""Which weights stay: exact numbers, one threshold over everything, rounds, and positions on disk.

`pruned` is the fraction of the weights that goes. The word sparsity is avoided: the SparseAdapter paper means by it
the fraction that goes, its script the fraction that stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def kept(total: int, pruned: float) -> int:
    r"""How many of `total` weights stay when the fraction `pruned` goes."""
    return total - round(pruned * total)


def fraction(total: int, kept: int) -> float:
    r"""The fraction to prune so that exactly `kept` of `total` weights stay."""
    return 1 - kept / total


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


def chance(tensors: Sequence[Tensor], seed: int) -> list[Float[Tensor, "*shape"]]:
    r"""Scores drawn from `seed` for each of `tensors`: the same ones in every precision and on every device."""
    random = torch.Generator().manual_seed(seed)
    return [torch.rand(tensor.shape, generator=random).to(tensor.device) for tensor in tensors]


def schedule(start: int, keep: int, rounds: int) -> list[int]:
    r"""How many weights stay after each of `rounds` rounds that lead from `start` to `keep`.

    Each round leaves the same share of what is there, $\kappa_i = \kappa_0 (\kappa_n / \kappa_0)^{i/n}$: large steps
    while there is much, small ones at the end (Tanaka et al. 2020, algorithm 1).
    """
    return [round(start * (keep / start) ** (i / rounds)) for i in range(1, rounds)] + [keep]


# On disk ------------------------------------------------------------------------------------------------------------


def encode(index: Int[Tensor, " kept"], size: int) -> tuple[str, Shaped[Tensor, " length"]]:
    r"""The positions `index` (rising, below `size`) in the smaller of two forms, after the form's name.

    "mask": one bit for each of the `size` positions, eight in a byte, the first in the lowest bit.
    "index": the positions themselves, in 8, 16 or 32 bits each. Smaller once very little is kept.
    """
    narrow = _narrowest(size)
    if len(index) * narrow.itemsize < -(-size // 8):
        return "index", index.to(narrow)
    mask = np.zeros(size, dtype=bool)
    mask[index.cpu().numpy()] = True
    return "mask", torch.from_numpy(np.packbits(mask, bitorder="little"))


def decode(form: str, stored: Shaped[Tensor, " length"], size: int) -> Int[Tensor, " kept"] | None:
    r"""The positions that `encode` stored; None where they are none in a tensor of `size` elements."""
    if form == "index":
        index = stored.to(torch.int64)
        fits = stored.dtype == _narrowest(size) and (index < size).all() and (index.diff() > 0).all()
        return index if fits else None
    if stored.dtype != torch.uint8 or len(stored) != -(-size // 8):
        return None
    bits = torch.from_numpy(np.unpackbits(stored.numpy(), bitorder="little"))
    return None if bits[size:].any() else bits[:size].nonzero().flatten()


def _narrowest(size: int) -> torch.dtype:
    return next((t for t in (torch.uint8, torch.uint16) if size <= torch.iinfo(t).max + 1), torch.int32)
