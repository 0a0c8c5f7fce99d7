r"""Draws one secret case: everything follows from a key, and every size stays as small as its generator asks for."""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor


class Draw:
    r"""Random numbers for one case. `kind` says which of its exercise's kinds of case is wanted, from 0.

    Python's generator, seeded with all 256 bits: PyTorch's keeps 32 of a seed, few enough to try them all.
    """

    def __init__(self, secret: bytes, name: str, kind: int = 0) -> None:
        self.kind = kind
        self._random = random.Random(hmac.new(secret, name.encode(), hashlib.sha256).digest())

    def whole(self, low: int, high: int) -> int:
        r"""A whole number from `low` to `high`, both included."""
        return self._random.randint(low, high)

    def real(self, low: float, high: float, digits: int = 3) -> float:
        r"""A number from `low` to `high` with so many digits behind the point."""
        return round(self._random.uniform(low, high), digits)

    def pick(self, values: Sequence[Any]) -> Any:
        r"""One of `values`."""
        return self._random.choice(values)

    def order(self, n: int) -> list[int]:
        r"""0 to n - 1, shuffled."""
        return self._random.sample(range(n), n)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        r"""A tensor of standard normal numbers."""
        values = [self._random.gauss(0.0, 1.0) for _ in range(prod(shape))]
        return torch.tensor(values, dtype=dtype).reshape(shape)

    def uniform(self, *shape: int) -> Tensor:
        r"""A tensor of numbers between 0 and 1."""
        return torch.tensor([self._random.random() for _ in range(prod(shape))], dtype=torch.float64).reshape(shape)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        r"""A tensor of whole numbers from `low` to `high`, both included."""
        return torch.tensor([self.whole(low, high) for _ in range(prod(shape))]).reshape(shape)
