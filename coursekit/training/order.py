r"""Which rows a step sees, and every random number in it: functions of (seed, step), so that a run can be resumed."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    r"""Seed Python's, NumPy's and PyTorch's generators, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rows_of_step(rows: int, per_step: int, seed: int, step: int) -> list[int]:
    r"""The `per_step` rows of step 0, 1, …, out of `rows`.

    Every epoch is a fresh permutation, and steps run on from one epoch into the next.
    """
    first = step * per_step
    picked: list[int] = []
    while len(picked) < per_step:
        epoch, start = divmod(first + len(picked), rows)
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(mix(seed, epoch)))
        picked += order[start : start + per_step - len(picked)].tolist()
    return picked


def mix(*numbers: int) -> int:
    r"""One seed mixed from several numbers, so that neighbouring steps or seeds have nothing in common."""
    return int(
        np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1, np.uint64)[0] >> 1
    )
