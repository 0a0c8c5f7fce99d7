r"""What it costs to put a merged adapter back into 4 bits: the error, held against the update itself.

$$e = \lVert Q(W + \Delta W) - (W + \Delta W) \rVert_F, \qquad \text{beside } \lVert \Delta W \rVert_F$$

W stands on the levels of its code, and an update that is small beside the distance of two levels moves few of them.
The others forget it. So e is about as large as the update, and what is left of it is mostly rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from coursekit.errors import CourseError, unknown
from coursekit.methods.lora import LoRALayer
from coursekit.methods.mechanism.attachment import attached, unmerged
from coursekit.qlora.linear import Linear4bit
from coursekit.quantization.bit_stream import unpack
from coursekit.quantization.blockwise import Blockwise, quantize_blockwise
from coursekit.quantization.codes import code
from coursekit.quantization.double import Double


@dataclass(frozen=True)
class MergeError:
    r"""One adapted layer. Norms are Frobenius norms."""

    path: str
    update: float  # norm of the update, merged weight less base weight
    error: float  # norm of what quantizing the merged weight does to it
    moved: float  # share of the weights whose code is another one afterwards

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
    again = quantize_blockwise(merged, q.code, q.block, isinstance(q.absmax, Double))
    update = merged.float() - q.dequantize().float()
    error = again.dequantize().float() - merged.float()
    moved = (_indices(q) != _indices(again)).float().mean()
    return MergeError(path, update.norm().item(), error.norm().item(), moved.item())


def _indices(q: Blockwise) -> UInt8[Tensor, " n"]:
    return unpack(q.packed, (len(code(q.code)) - 1).bit_length(), math.prod(q.shape))
