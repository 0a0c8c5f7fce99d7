r"""The nearest level of a code, exactly, for millions of values at once."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor


class Nearest:
    r"""Finds, for numbers y, the index of the nearest level; in the middle between two levels, that of the lower.

    Binary search compares each y with the middles between neighbouring levels. On a CPU there is a faster way to the
    same answer: the first 16 bits of an fp32 number (sign, exponent, 7 bits of the fraction) name one of 65,536 cells
    of the number line. With at most one middle in a cell, a table says which level lies below it, and one comparison
    decides. Levels closer together than a cell take the search.
    """

    def __init__(self, levels: Float[Tensor, " levels"]):
        ordered, self.index = levels.sort(stable=True)
        self.index = self.index.to(torch.uint8)
        self.middles = (ordered[:-1] + ordered[1:]) / 2 + 0.0  # -0.0 becomes 0.0: they have different cells
        self.table = _table(self.middles) if levels.device.type == "cpu" else None
        self.ascending = self.table is not None and torch.equal(levels, ordered)

    def __call__(self, y: Float32[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
        if self.table is None:
            return self.index[torch.bucketize(y, self.middles, out_int32=True)]
        below, middle = self.table
        flat = y.reshape(-1)
        cells = _cells(flat)
        ranks = below.index_select(0, cells).add_(flat > middle.index_select(0, cells))
        return (ranks if self.ascending else self.index.index_select(0, ranks.int())).view(y.shape)


@lru_cache(maxsize=16)
def _finder(levels: bytes) -> Nearest:
    return Nearest(torch.frombuffer(bytearray(levels), dtype=torch.float32))


def finder(levels: Float[Tensor, " levels"]) -> Nearest:
    r"""`Nearest(levels)`, kept for the next call where looking it up costs no transfer from a GPU."""
    levels = levels.detach().float()
    return _finder(levels.numpy().tobytes()) if levels.device.type == "cpu" else Nearest(levels)


def _cells(y: Float32[Tensor, " n"]) -> Int[Tensor, " n"]:
    return (y.view(torch.int32) >> 16).bitwise_and_(0xFFFF)


def _table(middles: Float[Tensor, " n"]) -> tuple[UInt8[Tensor, " 65536"], Float[Tensor, " 65536"]] | None:
    r"""For each cell the number of middles below it, and the middle inside it, infinity where there is none."""
    cells = _cells(middles).long()
    if len(cells.unique()) < len(cells):
        return None
    middle = torch.full((2**16,), torch.inf, dtype=torch.float32, device="cpu")
    middle[cells] = middles
    # Cells of negative numbers run from -0.0 downwards: turn them round for the order on the number line.
    line = torch.cat([torch.arange(2**16 - 1, 2**15 - 1, -1, device="cpu"), torch.arange(2**15, device="cpu")])
    inside = middle[line] < torch.inf
    below = torch.empty(2**16, dtype=torch.uint8, device="cpu")
    below[line] = (inside.cumsum(0) - inside.long()).to(torch.uint8)
    return below, middle
