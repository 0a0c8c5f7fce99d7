r"""How far off a block-wise code is on given weights.

In units of the weights' own root mean square, so that they can be compared: 0.01 squared is 1 % of the power.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from coursekit.errors import CourseError
from coursekit.quantization.blockwise import quantize_blockwise
from coursekit.quantization.checks import floats


class Error(NamedTuple):
    r"""Mean of the squared error over the mean square of the weights, and of the absolute error over its root."""

    squared: float
    absolute: float


def measured_error(w: Float[Tensor, "*shape"], name: str = "nf4", block: int = 64, double: bool = False) -> Error:
    r"""What quantizing `w` block-wise in code `name` costs. CourseError where `w` is empty or all zeros."""
    power = floats("w", w).double().square().mean() if w.numel() else 0.0
    if not power > 0:
        raise CourseError("an empty tensor, or one of zeros, has no size to measure an error against")
    gap = w.double() - quantize_blockwise(w.float(), name, block, double).dequantize().double()
    return Error(float(gap.square().mean() / power), float(gap.abs().mean() / power.sqrt()))
