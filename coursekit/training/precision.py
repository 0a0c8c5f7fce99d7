r"""Which precision the arithmetic of a step has, and in which the trained parameters are kept meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

_HALF = (torch.float16, torch.bfloat16)


def half_precision(model: nn.Module, trained: Iterable[nn.Parameter]) -> torch.dtype | None:
    r"""The precision to autocast to, None where the model needs no help; the rule is in the module's first
    lines.
    """
    if any(p.dtype is torch.float16 for p in model.parameters()):
        return torch.float16
    return torch.bfloat16 if any(p.dtype is torch.bfloat16 for p in trained) else None


@contextmanager
def master_weights(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    r"""Half-precision parameters in float32 meanwhile."""
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
