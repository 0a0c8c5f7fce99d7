r"""What a notebook's text says of its own cells, checked as they run: CI fails when a sentence stops being true.

The text is about the number format of its device: with another one (`DTYPE`) nothing is checked.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor


def claim(*true: bool) -> None:
    r"""Each is something that the text beside the cell says. Raises AssertionError with the number of a false one."""
    if os.environ.get("DTYPE"):
        return
    wrong = [number for number, one in enumerate(true, start=1) if not one]
    if wrong:
        raise AssertionError(f"claim {wrong[0]} of this cell does not hold in this run")


def claim_same(one: Tensor, other: Tensor, within: float = 0.0) -> None:
    r"""`one` and `other` are equal up to `within`, on a GPU (in half precision) up to 0.05."""
    if os.environ.get("DTYPE"):
        return
    allowed = max(within, 5e-2) if one.is_cuda else within
    gap = (one.float() - other.float()).abs().max().item()
    if not gap <= allowed:
        raise AssertionError(f"the two differ by {gap:.2g}, allowed is {allowed:g}")
    assert torch.isfinite(one).all()
