r"""How far off a block-wise code is: expected for normal weights, by integration, and measured on given ones.

Both in units of the weights' own root mean square, so that they can be compared: 0.01 squared is 1 % of the power.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from coursekit.errors import CourseError, whole
from coursekit.quantization.blockwise import quantize_blockwise
from coursekit.quantization.checks import floats
from coursekit.quantization.codes import code


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


def expected_error(name: str = "nf4", block: int = 64, points: int = 2048) -> Error:
    r"""The same for independent weights from N(0, 1), without a sample: exact but for the integral over the absmax.

    Within a block of B weights the largest magnitude M is itself random, $P(M \le m) = (2\Phi(m) - 1)^B$. Given M = m,
    one weight is $\pm m$, and the others are independent, from a normal cut off at $\pm m$. What those cost is an
    integral over each level's cell, in closed form; over m it is a sum of `points` equally spaced terms.

    Raises CourseError for an unknown code and for a block or `points` that is no positive integer.
    """
    block = whole("block", block, least=1, such_as=64)
    points = whole("points", points, least=1, such_as=2048)
    levels = code(name).double().unique()  # ascending; two codes for one value are one level
    m = torch.linspace(0, 12, points + 1, dtype=torch.float64)[1:, None]  # P(M > 12) is 4e-33 a weight
    inside = 2 * _cdf(m) - 1  # P(|x| < m)
    density = block * inside ** (block - 1) * 2 * _density(m) * m[0]  # of M, times the distance of two points
    middles = (levels[1:] + levels[:-1]) / 2
    ends = torch.cat([levels.new_tensor([-1.0]), middles, levels.new_tensor([1.0])])
    squared, absolute = _cell(m * ends[:-1], m * ends[1:], m * levels)
    # M itself meets the level nearest to 1, or to -1.
    largest = torch.stack([(1 - levels).abs().min(), (1 + levels).abs().min()])

    def mean(others: Tensor, largest: Tensor) -> float:
        one = (others.sum(1, keepdim=True) / inside * (block - 1) + largest) / block
        return float((one * density).sum() / density.sum())

    return Error(mean(squared, m**2 * largest.square().mean()), mean(absolute, m * largest.mean()))


def _cell(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    r"""$\int_a^b (x - c)^2 \varphi(x)\,dx$ and $\int_a^b |x - c| \varphi(x)\,dx$, a <= c <= b.

    From $\int \varphi = \Phi$, $\int x\varphi = -\varphi$ and $\int x^2\varphi = \Phi - x\varphi$.
    """
    mass = _cdf(b) - _cdf(a)
    squared = (1 + c**2) * mass + (a - 2 * c) * _density(a) - (b - 2 * c) * _density(b)
    above = _density(c) - _density(b) - c * (_cdf(b) - _cdf(c))
    below = c * (_cdf(c) - _cdf(a)) - _density(a) + _density(c)
    return squared, above + below


def _cdf(x: Tensor) -> Tensor:
    return torch.special.ndtr(x)


def _density(x: Tensor) -> Tensor:
    return torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
