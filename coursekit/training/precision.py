r"""The precision of a step's arithmetic, and that of the trained parameters while they train.

Trainable parameters in half precision are held in float32 meanwhile (master weights), and autocast does the arithmetic
in the model's own precision. A float16 model always computes under autocast, with a scaled loss, because its range is
small. An adapter in float32 on a bfloat16 base needs neither: the method decides how the two meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

_HALF = (torch.float16, torch.bfloat16)


def half_precision(model: nn.Module, trained: Iterable[nn.Parameter]) -> torch.dtype | None:
    r"""The precision to autocast to, None where the model needs no help."""
    if any(p.dtype is torch.float16 for p in model.parameters()):
        return torch.float16
    return torch.bfloat16 if any(p.dtype is torch.bfloat16 for p in trained) else None


@contextmanager
def master_weights(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    r"""Half-precision parameters in float32 meanwhile, and then in the precision they came with."""
    before = {p: p.dtype for p in parameters if p.dtype in _HALF}
    for parameter in before:
        parameter.grad = None
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter, dtype in before.items():
            parameter.grad = None
            parameter.data = parameter.data.to(dtype)
