r"""What it costs to put a merged adapter back into 4 bits: the error, held against the update itself.

$$e = \lVert Q(W + \Delta W) - (W + \Delta W) \rVert_F, \qquad \text{beside } \lVert \Delta W \rVert_F$$

W stands on the levels of its code, and an update that is small beside the distance of two levels moves few of them.
The others forget it. So e is about as large as the update, and what is left of it is mostly rounding.

Quantizing again makes the scales anew as well, since the largest weight of a block was updated, too. So there are two
ways in which something of the update may stay: a weight's code changes, or its block's scale does. `follows` has both
of them, `follows_by_codes` only the first: the merged weight is put on the levels of the *old* scales. `error` and
`error_by_codes` are the same two cases: a new scale moves every weight of its block, whatever its own update was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from coursekit.errors import CourseError, unknown
from coursekit.methods.lora import LoRALayer
from coursekit.methods.mechanism.attachment import attached, unmerged
from coursekit.qlora.linear import Linear4bit
from coursekit.quantization.bit_stream import unpack
from coursekit.quantization.blockwise import Blockwise, quantize_blockwise
from coursekit.quantization.codes import code
from coursekit.quantization.double import Double
from coursekit.quantization.nearest import finder


@dataclass(frozen=True)
class MergeError:
    r"""One adapted layer. Norms are Frobenius norms."""

    path: str
    update: float  # norm of the update, merged weight less base weight
    error: float  # norm of what quantizing the merged weight does to it
    error_by_codes: float  # the same where the old scales are kept
    moved: float  # share of the weights whose code is another one afterwards
    step: float  # root mean square of the update, with the smallest distance of two levels (mean absmax) as 1
    follows: float  # cosine of the update and of what it became, Q(W + ΔW) - W: 1 has its whole direction
    follows_by_codes: float  # the same where the old scales are kept

    @property
    def ratio(self) -> float:
        r"""Error over update: at 1 there is as much noise as there was learning."""
        return self.error / self.update if self.update else float("inf")


def merge_error(model: nn.Module, name: str | None = None) -> list[MergeError]:
    r"""For each layer in 4 bits that LoRA adapter `name` (default: the active one) adapts; the model is left as it is.

    Raises CourseError where there is no such adapter, or where none of its layers is in 4 bits.
    """
    names = attached(model)
    if not names:
        raise CourseError("no method is attached to this model: attach a LoRA and train it first")
    name = name or unmerged(model).switch.active or next(iter(names))
    if name not in names:
        raise unknown("adapter", name, names)
    found = []
    for path, layer in model.named_modules():
        if (
            isinstance(layer, LoRALayer)
            and name in layer.branches
            and isinstance(layer.base_layer, Linear4bit)
        ):
            found.append(_error(path, layer, name))
    if not found:
        raise CourseError(
            f"adapter {name!r} adapts no layer in 4 bits: quantize_model(model) before attaching it"
        )
    return found


@torch.no_grad()
def _error(path: str, layer: LoRALayer, name: str) -> MergeError:
    q = layer.base_layer.quantized
    merged, _ = layer.branches[name].merged(layer.W, None)
    merged, before = merged.float(), q.dequantize().float()
    again = quantize_blockwise(merged, q.code, q.block, isinstance(q.absmax, Double))
    update, after = merged - before, again.dequantize().float()
    levels, scales = code(q.code).to(merged.device), q.scales
    by_codes = _on_old_scales(merged, levels, scales, q.block)
    return MergeError(
        path,
        update=update.norm().item(),
        error=(after - merged).norm().item(),
        error_by_codes=(by_codes - merged).norm().item(),
        moved=(_indices(q) != _indices(again)).float().mean().item(),
        step=(update.square().mean().sqrt() / (levels.unique().diff().min() * scales.mean())).item(),
        follows=_cosine(update, after - before),
        follows_by_codes=_cosine(update, by_codes - before),
    )


def _cosine(one: Tensor, other: Tensor) -> float:
    r"""0 where one of the two is 0 throughout."""
    return F.cosine_similarity(one.flatten(), other.flatten(), dim=0).item()


def _on_old_scales(
    W: Float[Tensor, "out in"], levels: Float[Tensor, " levels"], scales: Float[Tensor, " blocks"], block: int
) -> Float[Tensor, "out in"]:
    r"""Each weight on the nearest level of its block, with scales that are given."""
    short = -W.numel() % block
    rows = F.pad(W.flatten(), (0, short)).view(-1, block)
    scales = torch.where(scales == 0, 1.0, scales)[:, None]
    nearest = finder(levels)((rows / scales).flatten()).int()
    return (levels.index_select(0, nearest).view(-1, block) * scales).flatten()[: W.numel()].view(W.shape)


def _indices(q: Blockwise) -> UInt8[Tensor, " n"]:
    return unpack(q.packed, (len(code(q.code)) - 1).bit_length(), math.prod(q.shape))
