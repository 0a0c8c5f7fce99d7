r"""Double quantization: the scales are quantized in turn (Dettmers et al. 2023, arXiv:2305.14314, section 3).

For blocks of 64 values, a scale in fp32 costs 32 / 64 = 0.5 bits a value. In 8 bits, with a second scale for each 256,
it costs 8 / 64 + 32 / (64 · 256) = 0.127.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from coursekit.quantization.checks import floats
from coursekit.quantization.dynamic import BLOCK, dequantize_8bit, dynamic_map, quantize_8bit


@dataclass
class Double:
    r"""Scales in codes of the signed dynamic map, with a scale of their own for each block of them."""

    codes: UInt8[Tensor, " n"]
    absmax: Float[Tensor, " blocks"]
    offset: Float[Tensor, ""]  # the mean of the scales
    block: int = BLOCK

    def dequantize(self) -> Float[Tensor, " n"]:
        r"""The scales, fp32."""
        return dequantize_8bit(self.codes, self.absmax, _map(self.codes.device), self.block).add_(self.offset)

    @property
    def nbytes(self) -> int:
        r"""Bytes of codes and second scales, and 4 for the offset."""
        return self.codes.nbytes + self.absmax.nbytes + self.offset.nbytes

    def to(self, device: torch.device | str) -> Double:
        r"""The same on `device`."""
        return Double(self.codes.to(device), self.absmax.to(device), self.offset.to(device), self.block)


def quantize_absmax(absmax: Float[Tensor, " n"], block: int = BLOCK) -> Double:
    r"""The scales `absmax` of a tensor's blocks in 8 bits. Their mean is subtracted first.

    Scales are positive and alike: without it half of the map would go unused, and its fine values near zero as well.
    """
    floats("absmax", absmax)
    offset = absmax.mean() if len(absmax) else absmax.new_zeros(())
    return Double(*quantize_8bit(absmax - offset, _map(absmax.device), block), offset, block)


@cache
def _map(device: torch.device) -> Float[Tensor, " 256"]:
    return dynamic_map().to(device)
