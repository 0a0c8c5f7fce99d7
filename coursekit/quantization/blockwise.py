r"""Block-wise quantization: a code of a few bits for each value, and a scale for each block of values.

Dettmers et al. 2023 (arXiv:2305.14314), sections 2 and 3. With the values $c_0, c_1, \dots$ of a code,

$$a = \max_{i \in \text{block}} |x_i|, \qquad q_i = \arg\min_j \Bigl|\frac{x_i}{a} - c_j\Bigr|, \qquad
\hat x_i = a \, c_{q_i}$$
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from coursekit.errors import CourseError, flag, one_of
from coursekit.quantization import codes, fresh
from coursekit.quantization.blocks import Lookup, decode, encode
from coursekit.quantization.checks import floats
from coursekit.quantization.double import Double, quantize_absmax
from coursekit.quantization.nearest import Nearest


@dataclass
class Blockwise:
    r"""A quantized tensor: what `quantize_blockwise` makes and `dequantize` reads."""

    packed: UInt8[Tensor, " bytes"]  # the codes as a stream of bits, see `bit_stream`
    absmax: Float[Tensor, " blocks"] | Double
    code: str
    block: int
    shape: torch.Size
    dtype: torch.dtype  # of the tensor that was quantized

    @property
    def scales(self) -> Float[Tensor, " blocks"]:
        r"""The scale of each block, fp32."""
        return self.absmax.dequantize() if isinstance(self.absmax, Double) else self.absmax

    @property
    def nbytes(self) -> int:
        r"""Bytes of codes and scales."""
        return self.packed.nbytes + self.absmax.nbytes

    @property
    def bits(self) -> float:
        r"""Bits a parameter, counted from what is stored."""
        return 8 * self.nbytes / max(1, math.prod(self.shape))

    def dequantize(self, out: Float[Tensor, "*shape"] | None = None) -> Float[Tensor, "*shape"]:
        r"""See `dequantize`."""
        return dequantize(self, out)

    def to(self, device: torch.device | str) -> Blockwise:
        r"""The same on `device`."""
        return replace(self, packed=self.packed.to(device), absmax=self.absmax.to(device))


def quantize_blockwise(
    x: Shaped[Tensor, "*shape"], code: str = "nf4", block: int = 64, double: bool = False
) -> Blockwise:
    r"""x in codes of a few bits, with one fp32 scale for each `block` of values of the flattened tensor.

    `code`: a name that `codes.code` knows. `double`: quantize the scales as well (see `double.Double`). Codes and
    scales of "nf4" and "fp4" are to the bit those of bitsandbytes.

    CourseError for infinities and NaN, for anything but floating-point numbers, and for settings that make no sense.
    """
    flag("double", double)
    table = _table(one_of("code", code, codes.CODES), floats("x", x).device)
    packed, absmax = encode(x.detach().reshape(-1), table.find, table.lookup.bits, block)
    return Blockwise(packed, quantize_absmax(absmax) if double else absmax, code, block, x.shape, x.dtype)


def dequantize(q: Blockwise, out: Float[Tensor, "*shape"] | None = None) -> Float[Tensor, "*shape"]:
    r"""The values that q stands for, in its shape and dtype; or in `out`, of that shape and any floating dtype.

    The product of level and scale is taken in fp32 and rounded once.
    """
    if out is None:
        result = fresh.empty(q.shape, q.dtype, q.packed.device)
    elif out.shape != q.shape or out.device != q.packed.device:
        raise CourseError(
            f"out is {tuple(out.shape)} on {out.device}: give one of {tuple(q.shape)} on {q.packed.device}"
        )
    else:
        result = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    table = _table(q.code, q.packed.device)
    decode(q.packed, q.scales, table.lookup, q.block, result.detach().view(-1))
    return result if out is None or result is out else out.copy_(result)


@dataclass(frozen=True)
class _Table:
    find: Nearest
    lookup: Lookup


@cache
def _table(code: str, device: torch.device) -> _Table:
    r"""Code `code` on `device`, made once."""
    levels = codes.code(code).to(device)
    return _Table(Nearest(levels), Lookup.of(levels, bits=(len(levels) - 1).bit_length()))
