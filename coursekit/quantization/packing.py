r"""Codes of 2 to 8 bits as one stream of bits: no bit is left unused between them."""

from __future__ import annotations

import math

import torch
from jaxtyping import UInt8
from torch import Tensor


def group(bits: int) -> tuple[int, int]:
    r"""The smallest number of codes that fill whole bytes, and those bytes: (2, 1) for 4 bits, (8, 3) for 3."""
    common = math.gcd(8, bits)
    return 8 // common, bits // common


def pack(codes: UInt8[Tensor, " n"], bits: int, pad: int = 0) -> UInt8[Tensor, "bytes"]:
    r"""The codes one after another, highest bit first: of two 4-bit codes the first is in the high nibble.

    Codes equal to `pad` fill the last group.
    """
    n, k = group(bits)
    if missing := -codes.numel() % n:
        codes = torch.cat([codes, codes.new_full((missing,), pad)])
    if k == n:
        return codes
    columns = codes.view(-1, n)
    if k == 1:
        packed = columns[:, 0].clone()
        for i in range(1, n):
            packed.bitwise_left_shift_(bits).bitwise_or_(columns[:, i])
        return packed
    shifts = torch.arange(n - 1, -1, -1, device=codes.device) * bits
    words = (columns.long() << shifts).sum(1, keepdim=True)
    return (words >> torch.arange(8 * (k - 1), -1, -8, device=codes.device) & 255).to(torch.uint8).view(-1)


def unpack(packed: UInt8[Tensor, "bytes"], bits: int, count: int) -> UInt8[Tensor, " count"]:
    r"""The first `count` codes."""
    n, k = group(bits)
    if k == n:
        return packed[:count]
    columns = packed.view(-1, k)
    words = columns[:, :1].int() if k == 1 else columns.long()
    if k > 1:
        words = (words << torch.arange(8 * (k - 1), -1, -8, device=packed.device)).sum(1, keepdim=True)
    shifts = torch.arange(n - 1, -1, -1, device=packed.device, dtype=words.dtype) * bits
    return (words >> shifts & (2**bits - 1)).to(torch.uint8).view(-1)[:count]
