r"""Prefix and prompt tuning of the `adapters` library, read. Positions of the text are not shifted there.

...prefix_tunings.NAME.self_prefix.wte.weight, control_trans.*      the network behind a prefix, once for each block
...prefix_tunings.NAME.self_prefix.control_trans                    a flat prefix: (n · L · 2 · d_kv)
...prompt_tunings.NAME.prompt_embedding.weight                     a prompt (n, d), behind the embedding layer

Checked against `adapters` 1.3.0: `tests/fixtures/make_adapters.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.adapterhub.folder import WEIGHTS, read_tensors
from coursekit.errors import CourseError
from coursekit.methods import PrefixTuning, PromptTuning
from coursekit.methods.soft_prompts.input_prompt import KEY

#: Settings with which the library does what is done here.
PLAIN = {"leave_out": [], "use_gating": False, "dropout": 0.0}


def read(model: nn.Module, folder: Path, form: dict[str, Any]) -> tuple[PrefixTuning, dict[str, Tensor]]:
    r"""The prefix in `folder`. Of the network behind it only what it makes is kept.

    Raises CourseError for settings that no method here has.
    """
    for key, plain in PLAIN.items():
        if form.get(key, plain) != plain:
            raise CourseError(f"the prefix in {folder} has {key}={form[key]!r}, which no prefix here does")
    tensors = read_tensors(folder, WEIGHTS)
    if strange := [key for key in tensors if "self_prefix." not in key]:
        raise CourseError(f"the adapter in {folder} has {strange[0]}, which no method here has")
    both = made(tensors, form, folder)
    return PrefixTuning(n=len(both), shifted=False), {KEY: both}


def read_prompt(model: nn.Module, folder: Path, form: dict[str, Any]) -> tuple[PromptTuning, dict[str, Tensor]]:
    r"""The prompt in `folder`. Raises CourseError for one that does not stand in front, and for one that is damaged."""
    if (combine := form.get("combine", "prefix")) != "prefix":
        raise CourseError(f"the prompt in {folder} has combine={combine!r}, which no prompt here does")
    tensors, n = read_tensors(folder, WEIGHTS), form.get("prompt_length")
    if strange := [key for key in tensors if not key.endswith(".prompt_embedding.weight")]:
        raise CourseError(f"the adapter in {folder} has {strange[0]}, which no method here has")
    if [prompt.shape[:1] for prompt in tensors.values()] != [(n,)]:
        raise CourseError(f"the prompt in {folder} is damaged: it is not of {n} tokens; fetch it again")
    return PromptTuning(n=n, init="random", embedded=False), {KEY: next(iter(tensors.values()))}


def made(tensors: dict[str, Tensor], form: dict[str, Any], folder: str | Path) -> Float[Tensor, "n kv_of_all_blocks"]:
    r"""Keys and values: as they are, or from the library's network, Emb(n, d), a linear map, tanh, a linear map."""
    found = {key.partition("self_prefix.")[2]: value for key, value in tensors.items() if "self_prefix." in key}
    n = form.get("prefix_length")
    if form.get("flat", False):
        flat = found.get("control_trans")
        if flat is None or not isinstance(n, int) or n < 1 or flat.numel() % n:
            raise CourseError(f"the prefix in {folder} is damaged: it is not of {n} tokens; fetch it again")
        return flat.reshape(n, -1)
    network = {f"control_trans.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    if not {"wte.weight", *network} <= set(found) or form.get("non_linearity", "tanh") != "tanh":
        raise CourseError(
            f"the adapter in {folder} has no network with tanh behind its prefix: save it again with the library"
        )
    first, second = (found[f"control_trans.{i}.weight"] for i in (0, 2))
    # (n, d) -> (n, hidden)
    hidden = torch.tanh(found["wte.weight"] @ first.T + found["control_trans.0.bias"])
    return hidden @ second.T + found["control_trans.2.bias"]
