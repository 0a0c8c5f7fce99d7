r"""What all block-wise formats share: the scale of each block, the nearest level, and the way back.

Blocks run over the flattened tensor. The last one may be short.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from coursekit.errors import CourseError


def blockwise_absmax(x: Float[Tensor, " n"], block: int) -> Float[Tensor, "blocks"]:
    r"""The largest magnitude in each block, fp32. CourseError for infinities, NaN and a block that is no number."""
    if not isinstance(block, int) or block < 1:
        raise CourseError(f"block={block!r}: give the number of values that share a scale, such as 64")
    if not x.is_floating_point():
        raise CourseError(f"quantizing {x.dtype}: give a tensor of floating-point numbers")
    whole = x.numel() - x.numel() % block
    parts = [x[:whole].view(-1, block).abs().amax(1)] if whole else []
    if whole < x.numel():
        parts.append(x[whole:].abs().amax().view(1))
    absmax = torch.cat(parts).float() if parts else x.new_empty(0, dtype=torch.float32)
    if not absmax.isfinite().all():
        raise CourseError("the tensor holds infinities or NaN, which have no code; repair it before quantizing")
    return absmax


def nearest(
    x: Float[Tensor, " n"], absmax: Float[Tensor, "blocks"], block: int, code: Float[Tensor, "levels"]
) -> UInt8[Tensor, " n"]:
    r"""For every x / absmax the index of the nearest level in `code`; in the middle of two, the lower."""
    ordered, index = code.to(x.device).sort(stable=True)
    midpoints = (ordered[:-1] + ordered[1:]) / 2
    scale = 1 / absmax.clamp(min=1e-38)
    scaled = scale_up(x.float(), scale, block)
    return index.to(torch.uint8)[torch.bucketize(scaled, midpoints, out_int32=True)]


def scale_up(x: Float[Tensor, " n"], scale: Float[Tensor, "blocks"], block: int) -> Float[Tensor, " n"]:
    r"""Every value times the scale of its block."""
    whole = x.numel() - x.numel() % block
    parts = [(x[:whole].view(-1, block) * scale[: whole // block, None]).view(-1), x[whole:] * scale[whole // block :]]
    return torch.cat(parts)
