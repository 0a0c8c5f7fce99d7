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


def packed_bytes(count: int, bits: int) -> int:
    r"""Bytes of `count` codes; the last group is filled up."""
    n, k = group(bits)
    return -(-count // n) * k


def pack(codes: UInt8[Tensor, " n"], bits: int, fill: int = 0) -> UInt8[Tensor, " bytes"]:
    r"""The codes one after another, highest bit first: of two 4-bit codes the first is in the high nibble.

    Codes equal to `fill` complete the last group.
    """
    n, k = group(bits)
    if missing := -len(codes) % n:
        codes = torch.cat([codes, codes.new_full((missing,), fill)])
    if bits == 8:
        return codes
    if bits == 4:  # two codes lie in one little-endian word: first + 256 second
        pairs = codes.view(torch.int16)
        return (pairs << 4).bitwise_or_(pairs >> 8).to(torch.uint8)
    words = (codes.view(-1, n).long() << _shifts(n, bits, codes.device)).sum(1, keepdim=True)
    return (words >> _shifts(k, 8, codes.device) & 255).to(torch.uint8).view(-1)


def unpack(packed: UInt8[Tensor, " bytes"], bits: int, count: int) -> UInt8[Tensor, " count"]:
    r"""The first `count` codes."""
    n, k = group(bits)
    if bits == 8:
        return packed[:count]
    if bits == 4:
        return torch.stack((packed >> 4, packed & 15), 1).view(-1)[:count]
    words = (packed.view(-1, k).long() << _shifts(k, 8, packed.device)).sum(1, keepdim=True)
    return (words >> _shifts(n, bits, packed.device) & 2**bits - 1).to(torch.uint8).view(-1)[:count]


def _shifts(count: int, width: int, device: torch.device) -> Tensor:
    r"""Where `count` fields of `width` bits lie in a word, the first one highest."""
    return torch.arange(count - 1, -1, -1, device=device) * width
