r"""Checks of what comes in: tensors of floating-point numbers, and blocks that codes fill."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from coursekit.errors import CourseError, whole
from coursekit.quantization.bit_stream import group


def floats(name: str, x: Any) -> Tensor:
    r"""`x` where it is a tensor of floating-point numbers; else a CourseError."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise CourseError(f"{name} must be a tensor of floating-point numbers; got {found}.")
    return x


def block_of(block: Any, bits: int) -> int:
    r"""`block`, the number of values with one scale, where their codes of `bits` bits fill whole bytes."""
    codes, _ = group(bits)
    if whole("block", block, least=1, such_as=64) % codes:
        raise CourseError(f"block must be a multiple of {codes} for codes of {bits} bits, such as 64; got {block}.")
    return block
