r"""Affine quantization: codes are integers, and a scale s and a zero point z say what they stand for.

$$s = \frac{\max(x, 0) - \min(x, 0)}{2^k - 1}, \quad z = -\operatorname{round}(\min(x, 0) / s), \quad
q = \operatorname{clamp}(\operatorname{round}(x / s) + z), \quad \hat x = s\,(q - z)$$

Zero lies in the range whatever x is, so z is itself a code, 0 stays exactly 0, and nothing is further than s/2 off.
Symmetric: $s = \max|x| / (2^{k-1} - 1)$, z = 0. Jacob et al. 2018 (arXiv:1712.05877), section 2.1; Krishnamoorthi 2018
(arXiv:1806.08342), sections 2.1 and 2.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

from coursekit.errors import CourseError, flag, whole
from coursekit.quantization.checks import floats

Codes = UInt8[Tensor, "*shape"] | Int8[Tensor, "*shape"]


@dataclass(frozen=True)
class Grid:
    r"""The values that k-bit codes can stand for, s (q - z); one grid, or several whose shapes broadcast with x."""

    scale: Float[Tensor, "*groups"]
    zero: Float[Tensor, "*groups"]  # an integer, unless it was itself quantized
    bits: int
    symmetric: bool = False

    @property
    def ends(self) -> tuple[int, int]:
        r"""The lowest and the highest code: 0 and $2^k - 1$, or -m and m with $m = 2^{k-1} - 1$."""
        m = 2 ** (self.bits - 1) - 1
        return (-m, m) if self.symmetric else (0, 2**self.bits - 1)

    def encode(self, x: Float[Tensor, "*shape"]) -> Codes:
        r"""The nearest code for each x, the first or the last one for what lies outside."""
        q = (x.to(self.scale.dtype) / self.scale).round_().add_(self.zero).clamp_(*self.ends)
        return q.to(torch.int8 if self.symmetric else torch.uint8)

    def decode(self, codes: Codes) -> Float[Tensor, "*shape"]:
        r"""What the codes stand for, in the precision of the scale."""
        return (codes.to(self.scale.dtype) - self.zero) * self.scale


def grid(
    low: Float[Tensor, "*groups"] | float, high: Float[Tensor, "*groups"] | float, bits: int = 4, *,
    symmetric: bool = False,
) -> Grid:  # fmt: skip
    r"""The k-bit grid that reaches from `low` to `high`, and to zero where that lies outside. k: 2 to 8.

    fp64 for fp64 and for plain numbers, else fp32. Raises CourseError for a width out of range and for ends that are
    not finite.
    """
    bits, symmetric = whole("bits", bits, least=2, most=8, such_as=4), flag("symmetric", symmetric)
    low, high = (torch.as_tensor(t, dtype=None if isinstance(t, Tensor) else torch.float64) for t in (low, high))
    low, high = (t if t.dtype == torch.float64 else t.float() for t in (low.clamp(max=0), high.clamp(min=0)))
    if not (low.isfinite().all() and high.isfinite().all()):
        raise CourseError("the values hold infinities or NaN, which have no code; repair them before quantizing")
    if symmetric:
        scale = torch.maximum(-low, high) / (2 ** (bits - 1) - 1)
    else:
        scale = high / (2**bits - 1) - low / (2**bits - 1)  # high - low can overflow
    # A range of zero, or one below what a normal number can express, has one value: 0.
    scale = torch.where(scale < torch.finfo(scale.dtype).tiny, 1.0, scale)
    zero = torch.zeros_like(scale) if symmetric else (low.abs() / scale).round()
    return Grid(scale, zero, bits, symmetric)


@dataclass(frozen=True)
class Affine:
    r"""A quantized tensor: its codes, one a byte, and the grid of each group of values."""

    codes: Codes
    grid: Grid
    block: int | None
    dtype: torch.dtype  # of the tensor that was quantized

    def dequantize(self) -> Float[Tensor, "*shape"]:
        r"""The values that the codes stand for, as they are stored: of the shape and the dtype that x had."""
        values = self.grid.decode(_grouped(self.codes, self.block))
        values = values.reshape(-1)[: self.codes.numel()].view(self.codes.shape)
        ends = torch.finfo(self.dtype)  # half a step beyond the largest number there is would be infinity
        return values.clamp(ends.min, ends.max).to(self.dtype)


def quantize_affine(
    x: Float[Tensor, "*shape"], bits: int = 4, *, symmetric: bool = False, axis: int | None = None,
    block: int | None = None,
) -> Affine:  # fmt: skip
    r"""x in integers of `bits` bits, with one scale and zero point for all of it.

    axis: one for each index of that dimension (0: each output channel of a weight matrix). block: one for each so many
    values of the flattened tensor; the last block may be short. Where x is one of the 16-bit types, what comes back is
    rounded to it once more.

    Raises CourseError for an empty tensor, NaN, infinities, and settings that make no sense.
    """
    _sensible(x, axis, block)
    groups = _grouped(x.detach(), block)
    if block is not None:
        over = (1,)
    else:
        over = tuple(i for i in range(x.dim()) if axis is None or i != axis % x.dim())
    low, high = groups, groups
    if over:  # a vector with one scale for each of its values has nothing to reduce
        low, high = groups.amin(over, keepdim=True), groups.amax(over, keepdim=True)
    found = grid(low, high, bits, symmetric=symmetric)
    codes = found.encode(groups).reshape(-1)[: x.numel()].view(x.shape)
    return Affine(codes, found, block, x.dtype)


def _grouped(x: Tensor, block: int | None) -> Tensor:
    r"""x as (blocks, block), the last one filled up with zeros, which are in every range; x itself without blocks."""
    if block is None:
        return x
    flat, blocks = x.reshape(-1), math.ceil(x.numel() / block)
    return torch.nn.functional.pad(flat, (0, blocks * block - x.numel())).view(blocks, block)


def _sensible(x: Tensor, axis: int | None, block: int | None) -> None:
    if floats("x", x).numel() == 0:
        raise CourseError("the tensor is empty: there is no range to quantize")
    if axis is not None and block is not None:
        raise CourseError(f"axis={axis} and block={block}: scales belong to one or the other, leave one out")
    if axis is not None:
        whole("axis", axis, least=-x.dim(), most=x.dim() - 1)
    if block is not None:
        whole("block", block, least=1, such_as=32)
