r"""Quantizing to 4 bits and back as one GPU kernel each, written by `torch.compile`.

On a GPU every operation reads and writes all of its tensors in slow memory, so ten small operations cost ten times
what one costs that does all ten. On a CPU a part of the tensor stays in the cache from one operation to the next
(see `blocks`), and compiling does not pay: the compiled loops look values up one at a time and take four times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import unwrap
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

#: Below this the inverse of a scale would overflow, for a block of zeros above all.
TINY = 1e-38
#: Fewer values take the plain way: compiling takes seconds.
LARGE = 2**20


def pays(x: Tensor, values: int, bits: int) -> bool:
    r"""Whether to use this module for so many `values` on the device of x."""
    return x.is_cuda and bits == 4 and values >= LARGE and not torch.compiler.is_compiling()


def encode(
    pairs: Float[Tensor, "blocks half 2"], middles: Float[Tensor, " middles"], index: UInt8[Tensor, " levels"]
) -> tuple[UInt8[Tensor, "blocks half"], Float[Tensor, " blocks"]]:
    r"""Codes, two a byte, and scales. Even and odd values come apart, so that both fit in one pass over the block."""
    even, odd = pairs[..., 0].float(), pairs[..., 1].float()
    absmax = torch.maximum(even.abs(), odd.abs()).amax(1)
    scale = (1.0 / absmax.clamp(min=TINY))[:, None]
    nibbles = []
    for y in (even * scale, odd * scale):
        rank = torch.zeros_like(y, dtype=torch.int32)
        for middle in middles.unbind():
            rank = rank + (y > middle)
        nibbles.append(index[rank].int())
    return (nibbles[0] << 4 | nibbles[1]).to(torch.uint8), absmax


def decode(
    packed: UInt8[Tensor, "blocks half"],
    absmax: Float[Tensor, " blocks"],
    levels: Float[Tensor, " levels"],
    out: Float[Tensor, "blocks half 2"],
) -> Tensor:
    r"""The values, in `out`."""
    both = torch.stack((levels[(packed >> 4).int()], levels[(packed & 15).int()]), -1)
    return out.copy_(both * absmax[:, None, None])


@cache
def compiled(function: Callable) -> Callable:
    r"""`function` as one kernel; the function alone, since what checks its shapes in tests cannot be compiled."""
    return torch.compile(unwrap(function))


#: Functions that torch could not compile here: no compiler, a device too old.
_plain: set[Callable] = set()


def run(function: Callable, *arguments: Any) -> Any:
    r"""function(*arguments) as one kernel; step by step, with the same result, where torch cannot compile."""
    if function not in _plain:
        try:
            return compiled(function)(*arguments)
        except Exception:  # whatever it was: a mistake of ours comes up again below
            _plain.add(function)
    return function(*arguments)
