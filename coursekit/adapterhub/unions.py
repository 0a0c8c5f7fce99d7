r"""Unions of the `adapters` library, read: MAM and UniPELT, whose folders hold a prefix, bottlenecks and LoRA at once.

Checked against `adapters` 1.3.0: `tests/fixtures/make_adapters.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from coursekit.adapterhub.folder import WEIGHTS, read_tensors
from coursekit.adapterhub.forms import check_plain, width
from coursekit.adapterhub.prefix import made
from coursekit.errors import CourseError
from coursekit.methods import MAMAdapter, UniPELT
from coursekit.methods.adapters.places import blocks

#: A tensor of a block: number of the block, and what follows.
_BLOCK = re.compile(r"\.(?P<number>\d+)\.(?P<inside>.+)$")
#: What follows: the library's form -> ours, with the part of the method that it belongs to.
_PREFIX_GATE = re.compile(r"attention\.self\.prefix_tuning\.prefix_gates\.[^.]+\.(?P<kind>\w+)")
_LORA = re.compile(r"(?P<path>attention\.self\.\w+)\.loras\.[^.]+\.(?P<part>lora_A|lora_B|gate\.\w+)")
_BOTTLENECK = re.compile(
    r"(?:output|output_adapters)\.adapters\.[^.]+\.(?P<part>adapter_down\.0|adapter_up|gate)\.(?P<kind>\w+)"
)
_PARTS = {"adapter_down.0": "down", "adapter_up": "up", "gate": "gate"}
#: Settings of the library with which its parts are ours.
_PLAIN_PREFIX = {"non_linearity": "tanh", "flat": False, "leave_out": []}
_PLAIN_BOTTLENECK = {
    "non_linearity": "relu", "mh_adapter": False, "output_adapter": True, "phm_layer": False, "leave_out": [],
}  # fmt: skip
_PLAIN_LORA = {
    "selfattn_lora": True, "intermediate_lora": False, "output_lora": False, "attn_matrices": ["q", "v"],
    "composition_mode": "add", "leave_out": [],
}  # fmt: skip


def read_method(form: dict[str, Any], folder: Path) -> MAMAdapter | UniPELT:
    r"""The method that the union in `folder`, of the settings `form`, is. Of the network behind a prefix only what it
    makes is kept. Raises CourseError for a union that no method here is.
    """
    configs = form.get("configs")
    if not isinstance(configs, list) or not all(isinstance(part, dict) for part in configs):
        raise CourseError(f"the union in {folder} does not say what it is made of: save it again with the library")
    parts = {part.get("architecture") or "bottleneck": part for part in configs}
    prefix, bottleneck, lora = (parts.get(kind, {}) for kind in ("prefix_tuning", "bottleneck", "lora"))
    gated = {part.get("use_gating", False) for part in parts.values()}
    kinds = set(parts)
    if _PLAIN_PREFIX.items() <= prefix.items() and _PLAIN_BOTTLENECK.items() <= bottleneck.items():
        check_plain(bottleneck, folder, but=("use_gating",))
        n, r, s = prefix.get("prefix_length"), width(folder), bottleneck.get("scaling", 1.0)
        if kinds == {"prefix_tuning", "bottleneck"} and bottleneck.get("is_parallel") and gated == {False}:
            return MAMAdapter(n=n, hidden=None, r=r, scaling=s)
        sequential = bottleneck.get("original_ln_before") and not bottleneck.get("is_parallel") and s == 1.0
        with_lora = all(lora.get(key) == value for key, value in _PLAIN_LORA.items())
        if kinds == {"prefix_tuning", "bottleneck", "lora"} and gated == {True} and sequential and with_lora:
            # The library averages its gates over padding as well.
            return UniPELT(n=n, hidden=None, r=r, rank=lora.get("r"), padded=True)
    raise CourseError(
        f"the union in {folder} of {' and '.join(sorted(kinds))} has settings that no method here has: MAM and UniPELT "
        "as the library sets them up are read"
    )


def ours(method: MAMAdapter | UniPELT, model: nn.Module, folder: str | Path) -> dict[str, Tensor]:
    r"""The tensors in `folder` under the keys that `method` has in `model`."""
    paths, tensors = list(blocks(model)), read_tensors(Path(folder), WEIGHTS)
    found = {"PREFIX_TUNING.prompt_embeddings": made(tensors, {"prefix_length": method.n}, folder)}
    kind, site = ("PFEIFFER", "pfeiffer") if isinstance(method, UniPELT) else ("PARALLEL_ADAPTER", "parallel")
    for key, value in tensors.items():
        if "prefix_tunings." in key:  # the network: each block has a reference to it
            continue
        block = _BLOCK.search(key)
        if block is None:
            raise CourseError(f"the adapter in {folder} has {key}, which no method here has")
        number, inside = int(block["number"]), block["inside"]
        # Of a deeper model: a key that nobody has, and so an error further on.
        path = paths[number] if number < len(paths) else f"block {number}"
        if match := _PREFIX_GATE.fullmatch(inside):
            found[f"PREFIX_TUNING.{path}.attention.self.gate.{match['kind']}"] = value
        elif match := _LORA.fullmatch(inside):
            part = match["part"] if match["part"].startswith("gate") else f"{match['part']}.weight"
            found[f"LORA.{path}.{match['path']}.{part}"] = value
        elif match := _BOTTLENECK.fullmatch(inside):
            found[f"{kind}.{path}.{site}.{_PARTS[match['part']]}.{match['kind']}"] = value
        else:
            raise CourseError(f"the adapter in {folder} has {key}, which no method here has")
    return found
