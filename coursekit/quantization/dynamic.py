r"""The dynamic 8-bit map and block-wise 8-bit codes (Dettmers et al. 2022, arXiv:2110.02861, sections 1.3 and 2.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from coursekit.quantization.blocks import blockwise_absmax, nearest, scale_up

#: Powers of ten of the dynamic map: 1 down to 1e-6.
DECADES = 7


def dynamic_map(signed: bool = True) -> Float[Tensor, "256"]:
    r"""256 values, ascending, fp32, in [-1, 1]; in [0, 1] where not `signed`.

    Decade i, 10^(i-6), has 2^i values of each sign (2^(i+1) of one sign only) in the middle of equal steps
    from 0.1 to 1. Zero and one are added. So small numbers get a small error and large ones many fraction bits.
    """
    values = [torch.tensor([0.0, 1.0])]
    for i in range(DECADES):
        steps = torch.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        middles = 10.0 ** (i + 1 - DECADES) * ((steps[:-1] + steps[1:]) / 2)
        values += [middles, -middles] if signed else [middles]
    return torch.cat(values).sort().values


def quantize_8bit(
    x: Float[Tensor, "*shape"], code: Float[Tensor, "levels"], block: int = 256
) -> tuple[UInt8[Tensor, "*shape"], Float[Tensor, "blocks"]]:
    r"""The index of the nearest value of `code` for every x / absmax, and absmax, fp32, of each `block` of x."""
    absmax = blockwise_absmax(x.reshape(-1), block)
    codes = nearest(x.reshape(-1), absmax, block, code)
    return codes.view(x.shape), absmax


def dequantize_8bit(
    codes: UInt8[Tensor, "*shape"],
    absmax: Float[Tensor, "blocks"],
    code: Float[Tensor, "levels"],
    block: int = 256,
    out: Float[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    r"""code[codes] * absmax: fp32, or in `out`, which may have another precision."""
    values = scale_up(code.to(codes.device)[codes.reshape(-1).int()], absmax, block).view(codes.shape)
    return values if out is None else out.copy_(values)
