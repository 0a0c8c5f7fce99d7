r"""Block-wise quantization: one scale for each block of values, and a code of a few bits for each value.

Dettmers et al. 2023 (arXiv:2305.14314), section 2, equations 1 and 2. Within a block,

$$q_i = \operatorname{nearest}\bigl(x_i / \mathrm{absmax}\bigr), \qquad \hat x_i = \mathrm{code}[q_i] \cdot \mathrm{absmax}$$
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from coursekit.quantization import codes
from coursekit.quantization.blocks import blockwise_absmax, nearest, scale_up
from coursekit.quantization.double import Double, quantize_absmax
from coursekit.quantization.packing import pack, unpack


@dataclass
class Blockwise:
    r"""A quantized tensor: what `quantize_blockwise` makes and `dequantize` reads."""

    packed: UInt8[Tensor, "bytes"]  # codes as a stream of bits, see `packing`
    absmax: Float[Tensor, "blocks"] | Double
    code: str
    block: int
    shape: torch.Size
    dtype: torch.dtype  # of the tensor that was quantized

    @property
    def nbytes(self) -> int:
        r"""Bytes of codes and scales."""
        return self.packed.nbytes + self.absmax.nbytes

    @property
    def bits(self) -> float:
        r"""Bits a parameter, counted from what is stored."""
        return 8 * self.nbytes / max(1, math.prod(self.shape))

    def dequantize(self, out: Float[Tensor, "..."] | None = None) -> Float[Tensor, "..."]:
        r"""The values, in `out` where it is given."""
        return dequantize(self, out)

    def to(self, device: torch.device | str) -> Blockwise:
        r"""The same on `device`."""
        return replace(self, packed=self.packed.to(device), absmax=self.absmax.to(device))


def quantize_blockwise(
    x: Float[Tensor, "..."], code: str = "nf4", block: int = 64, double: bool = False
) -> Blockwise:
    r"""x in codes of a few bits, with one fp32 scale for each `block` of values of the flattened tensor.

    `code` names the levels (see `codes.code`); `double` quantizes the scales as well (see `double.Double`).
    CourseError for infinities and NaN.
    """
    levels = codes.code(code).to(x.device)
    flat = x.detach().reshape(-1)
    absmax = blockwise_absmax(flat, block)
    zero = int(nearest(levels.new_zeros(1), levels.new_ones(1), 1, levels))
    packed = pack(nearest(flat, absmax, block, levels), _bits(levels), pad=zero)
    return Blockwise(packed, quantize_absmax(absmax) if double else absmax, code, block, x.shape, x.dtype)


def dequantize(q: Blockwise, out: Float[Tensor, "..."] | None = None) -> Float[Tensor, "..."]:
    r"""The values that q stands for, of its shape and dtype; in `out`, which may have another dtype, where given."""
    levels = codes.code(q.code).to(q.packed.device)
    absmax = q.absmax.dequantize() if isinstance(q.absmax, Double) else q.absmax
    index = unpack(q.packed, _bits(levels), math.prod(q.shape))
    values = scale_up(levels[index.int()], absmax, q.block).view(q.shape)
    return values.to(q.dtype) if out is None else out.copy_(values)


def _bits(levels: Float[Tensor, "levels"]) -> int:
    return max(1, (len(levels) - 1).bit_length())
