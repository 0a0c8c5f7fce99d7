r"""Double quantization: the scales of the blocks are quantized, too (Dettmers et al. 2023, arXiv:2305.14314, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from coursekit.quantization.dynamic import dequantize_8bit, dynamic_map, quantize_8bit


@dataclass
class Double:
    r"""Scales of blocks in 8 bits each: the signed dynamic map, in blocks of their own.

    Scales are positive; `offset`, their mean, is subtracted so that both signs of the map are used.
    """

    codes: UInt8[Tensor, " n"]
    absmax: Float[Tensor, "blocks"]
    offset: Float[Tensor, ""]
    block: int = 256

    def dequantize(self) -> Float[Tensor, " n"]:
        r"""The scales, fp32."""
        return dequantize_8bit(self.codes, self.absmax, dynamic_map(), self.block).add_(self.offset)

    @property
    def nbytes(self) -> int:
        r"""Bytes of codes and second scales. The offset is one number for the whole tensor: 4 bytes more."""
        return self.codes.nbytes + self.absmax.nbytes + self.offset.nbytes

    def to(self, device: torch.device | str) -> Double:
        r"""The same on `device`."""
        return Double(self.codes.to(device), self.absmax.to(device), self.offset.to(device), self.block)


def quantize_absmax(absmax: Float[Tensor, " n"], block: int = 256) -> Double:
    r"""The scales `absmax` of a tensor's blocks, quantized."""
    offset = absmax.mean() if absmax.numel() else absmax.new_zeros(())
    return Double(*quantize_8bit(absmax - offset, dynamic_map(), block), offset, block)
