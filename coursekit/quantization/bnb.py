r"""Quantized tensors in the form of bitsandbytes: its tensors, and the entries it writes to a state dict.

Its `Linear4bit` saves `weight`, the packed codes as a column, and beside it what is needed to read them:

- `weight.absmax`: fp32, or 8-bit codes under double quantization; then `weight.nested_absmax` too.
- `weight.quant_map`, `weight.nested_quant_map`: the tables of levels.
- `weight.quant_state.bitsandbytes__nf4` (or `__fp4`): sizes, types and the offset, as JSON in bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from coursekit.errors import CourseError
from coursekit.quantization import codes
from coursekit.quantization.blockwise import Blockwise
from coursekit.quantization.double import Double
from coursekit.quantization.dynamic import dynamic_map

#: What bitsandbytes 0.50 reads.
CODES = ("nf4", "fp4")
BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def to_state_dict(q: Blockwise, name: str = "weight") -> dict[str, Tensor]:
    r"""The entries that bitsandbytes saves for q under `name`. CourseError for a code, block or dtype that it lacks."""
    for what, value, known in (("code", q.code, CODES), ("block", q.block, BLOCKS), ("dtype", q.dtype, DTYPES)):
        if value not in known:
            raise CourseError(f"bitsandbytes has no {what}={value}; it has {', '.join(map(str, known))}")
    device = q.packed.device
    entries = {"quant_map": codes.code(q.code).to(device)}
    said: dict[str, Any] = {"quant_type": q.code, "blocksize": q.block, "dtype": _name(q.dtype), "shape": [*q.shape]}
    if isinstance(q.absmax, Double):
        entries |= {
            "absmax": q.absmax.codes,
            "nested_absmax": q.absmax.absmax,
            "nested_quant_map": dynamic_map().to(device),
        }
        said |= {"nested_blocksize": q.absmax.block, "nested_dtype": "float32", "nested_offset": q.absmax.offset.item()}
    else:
        entries["absmax"] = q.absmax
    entries[f"quant_state.bitsandbytes__{q.code}"] = torch.tensor(
        list(json.dumps(said).encode()), dtype=torch.uint8, device=device
    )
    return {name: q.packed.view(-1, 1)} | {f"{name}.{key}": value for key, value in entries.items()}


def from_state_dict(state: Mapping[str, Tensor], name: str = "weight") -> Blockwise:
    r"""The tensor that bitsandbytes saved under `name`. CourseError where entries are missing or do not fit."""
    said = _said(state, name)
    code, shape = said["quant_type"], torch.Size(said["shape"])
    count, blocks = math.prod(shape), -(-math.prod(shape) // said["blocksize"])
    # `weight` may be stored as another type of the same bytes, for FSDP to shard like its neighbours.
    packed = _entry(state, name).contiguous().view(-1).view(torch.uint8)
    _same(state, f"{name}.quant_map", codes.code(code))
    absmax: Tensor | Double = _entry(state, f"{name}.absmax")
    if len(packed) != -(-count // 2) or absmax.numel() != blocks:
        raise CourseError(
            f"{name} holds {2 * len(packed)} codes and {absmax.numel()} scales, but its shape {tuple(shape)} "
            f"in blocks of {said['blocksize']} needs {count} and {blocks}: the file is damaged"
        )
    if "nested_blocksize" in said:
        _same(state, f"{name}.nested_quant_map", dynamic_map())
        offset = torch.tensor(said["nested_offset"], dtype=torch.float32, device=packed.device)
        absmax = Double(absmax, _entry(state, f"{name}.nested_absmax"), offset, said["nested_blocksize"])
    return Blockwise(packed, absmax, code, said["blocksize"], shape, getattr(torch, said["dtype"]))


def from_bitsandbytes(packed: Tensor, state: Any) -> Blockwise:
    r"""The tensor behind bitsandbytes' packed codes and `QuantState`; memory is shared.

    CourseError for a layer that has run in eval mode on a CPU with bf16 instructions: bitsandbytes has rearranged
    its codes then, and rounded its scales to bf16.
    """
    if getattr(state, "packing_format_for_cpu", False):
        raise CourseError(
            "bitsandbytes has rearranged these weights for inference on this CPU: take them before the first forward"
        )
    entries = {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    return from_state_dict({"weight": packed} | entries)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _entry(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise CourseError(f"no {key} in this state dict: {_LAYOUT}")
    return state[key]


def _said(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    r"""What the JSON entry of `name` says."""
    for code in CODES:
        if (key := f"{name}.quant_state.bitsandbytes__{code}") in state:
            return json.loads(bytes(state[key].tolist()))
    raise CourseError(f"no {name}.quant_state.bitsandbytes__nf4 (or __fp4) in this state dict: {_LAYOUT}")


_LAYOUT = "bitsandbytes writes it beside every 4-bit weight, so this one is of another kind or incomplete"


def _same(state: Mapping[str, Tensor], key: str, levels: Tensor) -> None:
    if not torch.equal(_entry(state, key).cpu(), levels):
        raise CourseError(f"{key} is another table than bitsandbytes' own: its codes would be misread")
