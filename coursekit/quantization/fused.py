r"""Quantizing to 4 bits and back as one GPU kernel each, written by `torch.compile`.

On a GPU every operation reads and writes all of its tensors in slow memory, so ten small operations cost ten times
what one costs that does all ten. On a CPU a part of the tensor stays in the cache from one operation to the next
(see `blocks`), and compiling does not pay.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from coursekit.quantization.scales import inverse

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
    scale = inverse(absmax)[:, None]

    def nearest(y: Float[Tensor, "blocks half"]) -> Tensor:
        rank = torch.zeros_like(y, dtype=torch.int32)
        for middle in middles.unbind():
            rank = rank + (y > middle)
        return index[rank].int()

    return (nearest(even * scale) << 4 | nearest(odd * scale)).to(torch.uint8), absmax


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
def _compiled(function: Callable) -> list[Callable]:
    return [torch.compile(function), function]


def run(function: Callable, *arguments: Any) -> Any:
    r"""function(*arguments), compiled; step by step where torch cannot compile for this device."""
    ways = _compiled(function)
    if len(ways) > 1:
        try:
            return ways[0](*arguments)
        except Exception:  # no compiler, a device too old: whatever it is, the plain way needs none of it
            del ways[0]
    return ways[0](*arguments)
