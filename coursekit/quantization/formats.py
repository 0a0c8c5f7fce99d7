r"""Number formats: what they can and cannot express, read from their own bit patterns."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from coursekit.errors import one_of, unknown

FLOATS = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8 e4m3": torch.float8_e4m3fn,
    "fp8 e5m2": torch.float8_e5m2,
}


def numbers(name: str) -> Float[Tensor, " n"]:
    r"""Every finite number of a float of 8 or 16 bits, ascending, each once, in fp32: all its bit patterns, read."""
    dtype = FLOATS[one_of("format", name, FLOATS)]
    width = {1: torch.uint8, 2: torch.int16}.get(dtype.itemsize)
    if width is None:
        short = [other for other, d in FLOATS.items() if d.itemsize < 4]
        raise unknown("format that can be listed", name, short)
    patterns = torch.arange(2 ** (8 * dtype.itemsize), device="cpu")
    values = patterns.to(torch.int32).to(width).view(dtype).float()
    return values[values.isfinite()].unique()
