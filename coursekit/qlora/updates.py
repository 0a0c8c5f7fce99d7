r"""Updates with made-up gradients, the same for every optimizer: what one does beside another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

Made = TypeVar("Made", bound=Optimizer)


def updates(
    make: Callable[[list[nn.Parameter]], Made], shapes: Sequence[int | tuple[int, ...]], steps: int
) -> tuple[list[nn.Parameter], Made]:
    r"""Weights of these shapes after `steps` updates, and the optimizer that `make` has made for them.

    Start and gradients are standard normal, on the CPU, with one seed.
    """
    random = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]
    optimizer = make(weights)
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=random)
        optimizer.step()
    return weights, optimizer
