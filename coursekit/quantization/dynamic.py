r"""The dynamic 8-bit map, and 8-bit codes in blocks (Dettmers et al. 2022, arXiv:2110.02861, sections 1.3 and 2)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from coursekit.errors import CourseError, flag, whole
from coursekit.quantization.blocks import Lookup, decode, encode
from coursekit.quantization.checks import floats
from coursekit.quantization.nearest import finder

#: Powers of ten in the dynamic map: 1 down to 1e-6.
DECADES = 7
#: Values with one scale, in bitsandbytes and here: of an optimizer's states, and of scales that are quantized again.
BLOCK = 256
#: States of tensors with fewer elements stay in fp32, in bitsandbytes and here: they cost little.
SMALLEST = 4096


def dynamic_map(signed: bool = True) -> Float[Tensor, " 256"]:
    r"""256 values, ascending, fp32, from -0.993 to 1; unsigned from 0 to 1. To the bit those of bitsandbytes.

    Decade $10^{i-6}$, i = 0 to 6, has $2^i$ values of each sign (unsigned twice as many): the middles of equal steps
    from 0.1 to 1. Zero and one are added. The smaller a number, the coarser its fraction: as in a float, but so that
    both 1 and 1e-7 fit into 8 bits.
    """
    flag("signed", signed)
    fp32 = {"dtype": torch.float32, "device": "cpu"}
    values = [torch.tensor([0.0, 1.0], **fp32)]
    for i in range(DECADES):
        edges = torch.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1, **fp32)
        middles = 10.0 ** (i + 1 - DECADES) * ((edges[:-1] + edges[1:]) / 2)
        values += [middles, -middles] if signed else [middles]
    return torch.cat(values).sort().values


def quantize_8bit(
    x: Shaped[Tensor, "*shape"], code: Float[Tensor, " levels"], block: int = BLOCK
) -> tuple[UInt8[Tensor, "*shape"], Float[Tensor, " blocks"]]:
    r"""For every x / absmax the index of the nearest value of `code`; and absmax, fp32, of each block of x.

    Exactly nearest, in the middle of two the lower. bitsandbytes' quantizer for CPUs first rounds x / absmax to one of
    65,536 even steps from -1 to 1: two or three codes in a thousand are off by one, and by more near zero, where the
    map's values lie closer together than the steps. For a block of zeros it gives code 0, as good as any: absmax is
    zero. CourseError for infinities and NaN, and for anything but floating-point numbers.
    """
    find = finder(floats("code", code).to(floats("x", x).device))
    codes, absmax = encode(x.detach().reshape(-1), find, 8, block)
    return codes.view(x.shape), absmax


def dequantize_8bit(
    codes: UInt8[Tensor, "*shape"], absmax: Float[Tensor, " blocks"], code: Float[Tensor, " levels"], block: int = BLOCK
) -> Float[Tensor, "*shape"]:
    r"""code[codes] * absmax, fp32."""
    if len(absmax) != -(-codes.numel() // whole("block", block, least=1, such_as=BLOCK)):
        raise CourseError(
            f"{codes.numel()} codes in blocks of {block} have {-(-codes.numel() // block)} scales, and here are "
            f"{len(absmax)}: give the block that they were quantized in"
        )
    out = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
    levels = code.to(codes.device)
    decode(codes.reshape(-1), absmax, Lookup(levels, 8, by_byte=levels), block, out.view(-1))
    return out
