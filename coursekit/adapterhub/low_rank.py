r"""LoRA and (IA)³ of the `adapters` library, read. Both are its "lora"; composition_mode tells them apart.

...layer.0.attention.self.query.loras.NAME.lora_A (r, in), lora_B (out, r)          LoRA, and (IA)³ with lora_B alone

The library scales the outputs of the first feed-forward matrix, before the activation, where the (IA)³ paper scales the
inputs of the second. One matrix for queries, keys and values has a LoRA of rank r for each of those that are adapted:
together one of rank r times their number, whose B is zero elsewhere.
Checked against `adapters` 1.3.0: `tests/fixtures/make_adapters.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from coursekit.adapterhub.folder import WEIGHTS, read_tensors
from coursekit.errors import CourseError
from coursekit.methods import IA3, LoRA
from coursekit.methods.adapters.places import blocks
from coursekit.methods.mechanism.modules import LINEAR, modules_of
from coursekit.methods.mechanism.names import matches

_KEY = re.compile(r"\.(?P<block>\d+)\.(?P<inside>.+)\.loras\.[^.]+\.(?P<part>lora_A|lora_B)$")
#: Settings with which the library does what is done here.
_PLAIN = {"dropout": 0.0, "use_gating": False, "use_dora": False, "vera_d": None, "vera_b": None}


def read(model: nn.Module, folder: Path, form: dict[str, Any]) -> tuple[LoRA | IA3, dict[str, Tensor]]:
    r"""The method that the settings `form` in `folder` are, and its tensors under the keys that they have in `model`.

    Raises CourseError for settings that no method here has, and for tensors of another model.
    """
    for key, plain in _PLAIN.items():
        if form.get(key, plain) != plain:
            raise CourseError(f"the LoRA in {folder} has {key}={form[key]!r}, which no LoRA here does")
    r, alpha, scales = form.get("r", 8), form.get("alpha", 8), form.get("composition_mode", "add") == "scale"
    parts = _by_module(model, folder)
    if scales:
        if alpha != 1 or r != 1:
            raise CourseError(f"the (IA)³ in {folder} has r={r!r} and alpha={alpha!r}, not 1 and 1")
        found = {f"{path}.ia3_l": _padded(own["lora_B"], 1, path, form, model, 1.0) for path, own in parts.items()}
        return IA3(targets=_targets(model, parts), feedforward=()), found
    found, ranks = {}, {}
    for path, own in parts.items():
        if own.keys() != {"lora_A", "lora_B"} or any(value.dim() != 2 for value in own.values()):
            raise CourseError(f"the LoRA in {folder} is damaged: {path} has no two matrices; fetch it again")
        ranks[path] = len(own["lora_A"])
        found[f"{path}.lora_A.weight"] = own["lora_A"]
        found[f"{path}.lora_B.weight"] = _padded(own["lora_B"], ranks[path], path, form, model, 0.0)
    most = max(ranks.values())
    others = {path: rank for path, rank in ranks.items() if rank != most}
    return LoRA(
        r=most,
        alpha=alpha * most / r,
        targets=_targets(model, parts),
        rank_pattern={re.escape(path): rank for path, rank in others.items()},
        alpha_pattern={re.escape(path): alpha * rank / r for path, rank in others.items()},
    ), found


def _by_module(model: nn.Module, folder: Path) -> dict[str, dict[str, Tensor]]:
    r"""Path of a module in `model` -> "lora_A", "lora_B" -> tensor."""
    paths, parts = list(blocks(model)), dict[str, dict[str, Tensor]]()
    for key, value in read_tensors(folder, WEIGHTS).items():
        match = _KEY.search(key)
        if match is None:
            raise CourseError(f"the adapter in {folder} has {key}, which no method here has")
        number = int(match["block"])
        if number >= len(paths):
            raise CourseError(f"the adapter in {folder} is of another model: block {number} is not in this one")
        parts.setdefault(f"{paths[number]}.{match['inside']}", {})[match["part"]] = value
    if not parts:
        raise CourseError(f"the adapter in {folder} holds no LoRA: its weights have no tensors")
    layers = dict(modules_of(model, LINEAR))
    if strange := [path for path in parts if path not in layers]:
        raise CourseError(f"the adapter in {folder} is of another model: {strange[0]} is no linear layer of this one")
    return parts


def _targets(model: nn.Module, parts: dict[str, Any]) -> tuple[str, ...]:
    r"""Names inside a block where they mean these modules and no others, else whole paths."""
    paths = list(blocks(model))
    short = sorted({next(p.removeprefix(f"{b}.") for b in paths if p.startswith(f"{b}.")) for p in parts})
    meant = {p for p, _ in modules_of(model, LINEAR) if any(matches(p, name) for name in short)}
    return tuple(short) if meant == set(parts) else tuple(parts)


def _padded(B: Tensor, rank: int, path: str, form: dict[str, Any], model: nn.Module, neutral: float) -> Tensor:
    r"""B (out, rank) for all outputs. Where one matrix gives queries, keys and values, the library's has only those of
    the adapted ones, one under the other, and each meets ranks of its own.
    """
    layer = dict(modules_of(model, LINEAR))[path]
    d_out, r = layer.nf if isinstance(layer, Conv1D) else len(layer.weight), B.shape[1]
    chosen = [i for i, letter in enumerate("qkv") if letter in form.get("attn_matrices", ("q", "v"))]
    if B.shape == (d_out, rank) or d_out % 3 or len(B) != d_out // 3 * len(chosen):
        return B
    wide = torch.full((d_out, rank), neutral, dtype=B.dtype)
    for n, (i, block) in enumerate(zip(chosen, B.split(d_out // 3), strict=True)):
        columns = slice(n * r, n * r + r) if rank > 1 else slice(None)
        wide[i * d_out // 3 : (i + 1) * d_out // 3, columns] = block
    return wide
