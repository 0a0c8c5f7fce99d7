r"""Which rows a step sees, and every random number in it: functions of (seed, step), so that a run can be resumed."""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

#: Batches whose rows are sorted by length together: enough for little padding, few enough for other batches each epoch.
POOL = 50


def seed_everything(seed: int) -> None:
    r"""Seed Python's, NumPy's and PyTorch's generators, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class Order:
    r"""The rows of every step, out of `rows`: every epoch is a fresh permutation, and steps run on from one epoch into
    the next.

    lengths: of the rows, where rows of about the same length are to be in one batch of `batch`, so that little is
    padding; None for a plain permutation. Every epoch still has every row once, in batches that no other
    epoch has.
    """

    def __init__(
        self, rows: int, per_step: int, seed: int, *, lengths: Int[Tensor, " rows"] | None = None, batch: int = 1
    ) -> None:
        self.rows, self.per_step, self.seed, self.lengths, self.batch = rows, per_step, seed, lengths, batch
        self.epoch = lru_cache(maxsize=1)(self._epoch)

    def of_step(self, step: int) -> list[int]:
        r"""The rows of step 0, 1, …"""
        first = step * self.per_step
        picked: list[int] = []
        while len(picked) < self.per_step:
            epoch, start = divmod(first + len(picked), self.rows)
            picked += self.epoch(epoch)[start : start + self.per_step - len(picked)].tolist()
        return picked

    def _epoch(self, epoch: int) -> Int[Tensor, " rows"]:
        random = torch.Generator().manual_seed(mix(self.seed, epoch))
        order = torch.randperm(self.rows, generator=random)
        if self.lengths is None:
            return order
        # The first rows fill up the last batch of the epoch before, and the last ones begin one of the next.
        before = min(-epoch * self.rows % self.batch, self.rows)
        after = (self.rows - before) % self.batch
        head, middle, tail = order.split([before, self.rows - before - after, after])
        batches = [
            batch
            for pool in middle.split(POOL * self.batch)
            for batch in pool[self.lengths[pool].argsort(stable=True)].split(self.batch)
        ]
        shuffled = torch.randperm(len(batches), generator=random).tolist()
        return torch.cat([head, *(batches[i] for i in shuffled), tail])


def rows_of_step(rows: int, per_step: int, seed: int, step: int) -> list[int]:
    r"""The `per_step` rows of step 0, 1, … out of `rows`, where batches are not made by length."""
    return Order(rows, per_step, seed).of_step(step)


def mix(*numbers: int) -> int:
    r"""One seed mixed from several numbers, so that neighbouring steps or seeds have nothing in common."""
    return int(np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1, np.uint64)[0] >> 1)
