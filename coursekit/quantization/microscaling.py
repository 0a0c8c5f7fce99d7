r"""Microscaling: elements of 4 or 8 bits that are floats themselves, and a scale of 8 bits for each short block.

MXFP4 and MXFP8 (Open Compute Project, Microscaling Formats 1.0, section 6.3): blocks of 32, a scale X that is a power
of two. With $e$ the exponent of the largest element there is,

$$X = 2^{\lfloor \log_2 \max_{i \in \text{block}} |x_i| \rfloor - e}, \qquad q_i = \operatorname{round}(x_i / X), \qquad
\hat x_i = X q_i$$

NVFP4 (NVIDIA 2025, arXiv:2509.25149, appendix C): blocks of 16, a scale s that is an E4M3 float, at most 448, and one
number t for the whole tensor. The largest element is 6:

$$t = \frac{\max_i |x_i|}{6 \cdot 448}, \qquad
s = \operatorname{round}\Bigl(\frac{\max_{i \in \text{block}} |x_i|}{6\,t}\Bigr), \qquad \hat x_i = t\,s\,q_i$$
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from coursekit.errors import CourseError, one_of
from coursekit.quantization.checks import floats


def e8m0(absmax: Float[Tensor, "*blocks"], exponent: int) -> UInt8[Tensor, "*blocks"]:
    r"""The scale X of blocks with such an absmax, as its byte: b stands for $2^{b - 127}$.

    That is how fp32 stores its own exponent, so the bits are there to be taken.
    """
    return ((absmax.view(torch.int32) >> 23) - exponent).clamp(min=0).to(torch.uint8)


def power(byte: UInt8[Tensor, "*blocks"]) -> Float[Tensor, "*blocks"]:
    r"""$2^{b - 127}$, of which the smallest is no normal number in fp32."""
    bits = byte.int()
    return torch.where(bits > 0, bits << 23, 1 << 22).view(torch.float32)


def e2m1(x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    r"""The nearest E2M1 number, as its four bits: sign, two of exponent, one of mantissa; at most 6.

    As in all floats, what lies in the middle of two goes to the one whose last bit is 0.
    """
    levels = torch.tensor(E2M1, device=x.device)
    middles = (levels[1:] + levels[:-1]) / 2
    middles[1::2] = middles[1::2].nextafter(levels[0])  # 0.75 goes up to 1, while 0.25 goes down to 0
    return (torch.bucketize(x.abs(), middles) + 8 * x.signbit()).to(torch.uint8)


#: What the eight codes without a sign stand for.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
#: NVFP4: the smallest scale, E4M3's smallest normal number, and the smallest t whose inverse fp32 can hold beside it.
LEAST, TINY = 2.0**-6, 2.0**-120


class Microscale(NamedTuple):
    r"""A format: values of a block, the largest element, and the type of elements of 8 bits."""

    block: int
    largest: float
    dtype: torch.dtype | None = None

    @property
    def exponent(self) -> int:
        r"""Of the largest element: 2 for 6, which is 1.5 · 2²."""
        return math.frexp(self.largest)[1] - 1


MICROSCALES = {
    "mxfp4": Microscale(32, 6.0),
    "mxfp8 e4m3": Microscale(32, 448.0, torch.float8_e4m3fn),
    "mxfp8 e5m2": Microscale(32, 57344.0, torch.float8_e5m2),
    "nvfp4": Microscale(16, 6.0),
}


@dataclass(frozen=True)
class Microscaled:
    r"""A quantized tensor: what `quantize_microscaling` makes."""

    elements: Shaped[Tensor, "*rows bytes"]  # floats of 8 bits; of two with 4 bits, the first is in the low nibble
    scales: Shaped[Tensor, "*rows blocks"]  # bytes of `power`, or E4M3 floats
    tensor_scale: Float[Tensor, ""] | None  # t, of NVFP4 alone
    format: str
    dtype: torch.dtype  # of the tensor that was quantized

    @property
    def nbytes(self) -> int:
        r"""Bytes of elements and scales."""
        return self.elements.nbytes + self.scales.nbytes + (0 if self.tensor_scale is None else 4)

    @property
    def bits(self) -> float:
        r"""Bits a parameter, counted from what is stored."""
        return 8 * self.nbytes / (self.scales.numel() * MICROSCALES[self.format].block)

    def dequantize(self) -> Float[Tensor, "*rows width"]:
        r"""Scale times element, in fp32, then once rounded to the dtype of the tensor that was quantized."""
        if self.elements.dtype == torch.uint8:
            levels = torch.tensor([*E2M1, *(-level for level in E2M1)], device=self.elements.device)
            codes = torch.stack([self.elements & 15, self.elements >> 4], -1).flatten(-2)  # (*rows, width)
            values = levels[codes.int()]
        else:
            values = self.elements.float()
        if self.tensor_scale is None:
            scales = power(self.scales)
        else:
            scales = self.tensor_scale * self.scales.float()
        values = values.unflatten(-1, (-1, MICROSCALES[self.format].block)) * scales[..., None]
        ends = torch.finfo(self.dtype)  # a scale that was rounded up can reach beyond the largest number there is
        return values.flatten(-2).to(self.dtype).clamp(ends.min, ends.max)


def quantize_microscaling(x: Shaped[Tensor, "*shape"], format: str = "mxfp4") -> Microscaled:
    r"""x in one of `MICROSCALES`, in blocks along its last dimension. Beyond the largest element there is, that one.

    Elements and scales are to the bit those of torchao 0.18, with one exception. Blocks below about $2^{-124}$ have the
    smallest X of all, $2^{-127}$; torchao divides them by twice of it, so half of each value comes back. In such blocks
    this does as the specification says.

    CourseError for a name that is none, infinities and NaN, anything but floating-point numbers, an empty tensor, and a
    last dimension that is no whole number of blocks.
    """
    found = MICROSCALES[one_of("format", format, MICROSCALES)]
    blocks = _blocks(x, found.block)  # (*rows, blocks, block)
    absmax = blocks.abs().amax(-1)  # (*rows, blocks)
    if format == "nvfp4":
        t = (absmax.amax() / (6 * 448)).clamp(min=TINY)
        scales = (absmax / 6 / t).clamp(LEAST, 448).to(torch.float8_e4m3fn)
        y = blocks * (1 / t / scales.float())[..., None]  # the inverse first, as NVIDIA's kernels have it
    else:
        t, scales = None, e8m0(absmax, found.exponent)
        y = blocks / power(scales)[..., None]
    y = y.clamp(-found.largest, found.largest).flatten(-2)  # (*rows, width)
    if found.dtype is not None:
        return Microscaled(y.to(found.dtype), scales, t, format, x.dtype)
    codes = e2m1(y)
    return Microscaled(codes[..., ::2] | codes[..., 1::2] << 4, scales, t, format, x.dtype)


def _blocks(x: Tensor, block: int) -> Float[Tensor, "*rows blocks block"]:
    r"""x in fp32, its last dimension in blocks."""
    if floats("x", x).numel() == 0:
        raise CourseError("the tensor is empty: there is nothing to scale")
    width = x.shape[-1] if x.dim() else 1
    if width % block:
        raise CourseError(f"the last dimension must be a multiple of {block}, such as {4 * block}; got {width}.")
    blocks = x.detach().float().unflatten(-1, (-1, block))
    if not blocks.isfinite().all():
        raise CourseError("the tensor holds infinities or NaN, which no scale can be made for: repair it first")
    return blocks
