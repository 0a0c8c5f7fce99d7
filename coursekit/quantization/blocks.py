r"""Any code in blocks: from values to packed codes and scales, and back.

Blocks run over the flattened tensor; the last may be short. On a CPU both ways take a part of the tensor at a time, as
much as stays in the cache from one operation to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from coursekit.errors import CourseError
from coursekit.quantization import fused
from coursekit.quantization.bit_stream import pack, packed_bytes, unpack
from coursekit.quantization.checks import block_of
from coursekit.quantization.nearest import Nearest

#: Values at a time. Fewer would keep threads waiting for each other; on a GPU this only bounds what is in between.
ENCODED, DECODED, GPU = 2**18, 2**19, 2**24

#: A type as wide as 1, 2 or 4 fp32 values: looking up one wide value is faster than copying a row of narrow ones.
WIDE = {1: torch.float32, 2: torch.int64, 4: torch.complex128}


def encode(
    x: Shaped[Tensor, " n"], find: Nearest, bits: int, block: int
) -> tuple[UInt8[Tensor, " bytes"], Float[Tensor, " blocks"]]:
    r"""Packed codes and absmax, fp32, of each block.

    CourseError for infinities and NaN, and for a block whose codes do not fill whole bytes.
    """
    block_of(block, bits)
    n = len(x)
    packed = torch.empty(packed_bytes(n, bits), dtype=torch.uint8, device=x.device)
    absmax = torch.empty(-(-n // block), dtype=torch.float32, device=x.device)
    start = 0
    if fused.pays(x, n, bits):
        start = n - n % block
        pairs = x[:start].view(-1, block // 2, 2)
        codes, absmax[: n // block] = fused.run(fused.encode, pairs, find.middles, find.index)
        packed[: start // 2] = codes.view(-1)
    for part, rows in _parts(start, n, block, x.device, ENCODED):
        y, absmax[rows] = _scaled(x[part].view(-1, block))
        packed[_bytes(part, bits)] = pack(find(y.view(-1)), bits)
    if short := n % block:
        y, absmax[-1:] = _scaled_short(x[-short:].view(1, -1))
        zero = int(find(y.new_zeros(1)))  # what bitsandbytes fills the last byte with
        packed[_bytes(slice(n - short, n), bits)] = pack(find(y.view(-1)), bits, fill=zero)
    if not absmax.isfinite().all():
        raise CourseError("the tensor holds infinities or NaN, which no code stands for: repair it first")
    return packed, absmax


@dataclass(frozen=True)
class Lookup:
    r"""The levels of a code, ready for `decode`."""

    levels: Float[Tensor, " levels"]
    bits: int
    by_byte: Shaped[Tensor, " 256"] | None  # all that a byte stands for; None where codes cross bytes

    @classmethod
    def of(cls, levels: Float[Tensor, " levels"], bits: int) -> Lookup:
        r"""Codes of 2 or 4 bits: side by side, the values of all codes that a byte holds, for each of the 256."""
        if 8 % bits:
            return cls(levels, bits, None)
        every = torch.arange(256, device=levels.device).to(torch.uint8)
        values = levels[unpack(every, bits, 256 * 8 // bits).int()]
        return cls(levels, bits, values.view(WIDE[8 // bits]))


def decode(
    packed: UInt8[Tensor, " bytes"], absmax: Float[Tensor, " blocks"], lookup: Lookup, block: int,
    out: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:  # fmt: skip
    r"""level[code] * absmax for every code, computed in fp32 and written to `out` in its own precision."""
    n, bits, start = len(out), lookup.bits, 0
    if fused.pays(packed, n, bits):
        start = n - n % block
        halves, pairs = packed[: start // 2].view(-1, block // 2), out[:start].view(-1, block // 2, 2)
        fused.run(fused.decode, halves, absmax[: n // block], lookup.levels, pairs)
    parts = list(_parts(start, n, block, out.device, DECODED))
    if short := n % block:
        parts.append((slice(n - short, n), slice(n // block, None)))
    for part, rows in parts:
        count = part.stop - part.start
        codes = packed[_bytes(part, bits)]
        if lookup.by_byte is None:
            values = lookup.levels.index_select(0, unpack(codes, bits, count).int())
        else:
            values = lookup.by_byte.index_select(0, codes.int()).view(torch.float32)[:count]
        scale = absmax[rows, None]
        values, target = values.view(len(scale), -1), out[part].view(len(scale), -1)
        if out.dtype == torch.float32:
            torch.mul(values, scale, out=target)
        else:  # multiplying and rounding in one operation is slower than one after the other
            target.copy_(values.mul_(scale))
    return out


def _scaled(rows: Float[Tensor, "blocks block"]) -> tuple[Float[Tensor, "blocks block"], Float[Tensor, " blocks"]]:
    r"""Every row multiplied by 1 / absmax, its largest magnitude, and the absmax, both fp32; finite for zeros, too."""
    rows = rows.float()
    absmax = rows.abs().amax(1)
    return rows * (1.0 / absmax.clamp(min=fused.TINY))[:, None], absmax


def _scaled_short(row: Float[Tensor, "1 n"]) -> tuple[Float[Tensor, "1 n"], Float[Tensor, " 1"]]:
    r"""The same for a last block that is not full, to the bit what bitsandbytes makes of it on a CPU.

    It divides, where a full block is multiplied by 1 / absmax, which can differ in the last bit; and it stores 1e-38
    for a block of zeros.
    """
    row = row.float()
    absmax = row.abs().amax(1).clamp(min=fused.TINY)
    return row / absmax, absmax


def _parts(start: int, n: int, block: int, device: torch.device, size: int) -> Iterator[tuple[slice, slice]]:
    r"""The full blocks of n values from `start` on, several at a time: where their values lie, and their scales."""
    step = max(1, (size if device.type == "cpu" else GPU) // block)
    for first in range(start // block, n // block, step):
        last = min(first + step, n // block)
        yield slice(first * block, last * block), slice(first, last)


def _bytes(part: slice, bits: int) -> slice:
    r"""Where the codes of the values in `part` lie."""
    first = part.start * bits // 8
    return slice(first, first + packed_bytes(part.stop - part.start, bits))
