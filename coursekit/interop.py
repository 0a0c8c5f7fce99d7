r"""peft's checkpoint format: a folder with `adapter_config.json` and `adapter_model.safetensors`.

Keys are `base_model.model.` + the module's path + a suffix that names the parameter; the adapter's own name is left
out. Soft prompts wrap no module, so there a task head has the shorter prefix `base_model.`, and the prompt itself,
`prompt_embeddings`, has none. Written by hand rather than through peft, so that saving needs no peft; a test loads
every checkpoint with peft.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from coursekit.errors import CourseError

CONFIG, TENSORS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
#: The kinds that peft keeps beside the model instead of inside its modules.
SOFT_PROMPTS = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING")


class Settings(dict):
    r"""What the config of a checkpoint says; asking it for a key that is not there is an error in words."""

    def __missing__(self, key: str) -> Any:
        raise CourseError(
            f"the {CONFIG} of this checkpoint does not say {key!r}: another program, or another version of this one, "
            "wrote it; add the line to the file, or save the adapter again"
        )

    def __or__(self, other: dict[str, Any]) -> Settings:
        return Settings({**self, **other})  # an ordinary dict would forget the words


def write(folder: str | Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    r"""Write `config` and `tensors` (keys without peft's prefix) to `folder`, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as part:
            plain = {
                _prefix(config, key) + key: value.detach().cpu().contiguous()
                for key, value in tensors.items()
            }
            save_file(plain, Path(part, TENSORS), metadata={"format": "pt"})
            Path(part, CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            for name in (TENSORS, CONFIG):
                os.replace(Path(part, name), folder / name)
    except (OSError, SafetensorError) as error:  # a full disk shows as either
        raise CourseError(
            f"cannot write a checkpoint to {folder}: {error}; what was there is unchanged"
        ) from error
    return folder


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    r"""The config and the tensors of a checkpoint folder, keys without peft's prefix.

    Raises CourseError where the folder is no checkpoint or a file in it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise CourseError(
                f"{folder} is not an adapter checkpoint: it has no {name}; save one with method.save()"
            )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"), object_hook=Settings)
        tensors = load_file(folder / TENSORS)
        if not isinstance(config, Settings):
            raise ValueError(f"{CONFIG} holds no settings")
    except (ValueError, OSError, SafetensorError, RecursionError) as error:
        raise CourseError(f"the checkpoint in {folder} is damaged ({error}); save it again") from error
    # peft also stores the frozen embedding when an embedding is adapted; it belongs to the base, not to the adapter.
    # Where it trains biases, it stores that of the layer inside its own, and the classifier's once more for each copy.
    learned = {
        k.removeprefix(_prefix(config, k)).replace(".base_layer.bias", ".bias"): v
        for k, v in tensors.items()
        if not any(part in k for part in (".base_layer.weight", ".original_module.", ".modules_to_save."))
    }
    return config, learned


def _prefix(config: dict[str, Any], key: str) -> str:
    r"""What peft writes before `key` in a checkpoint of this kind."""
    if config.get("peft_type") not in SOFT_PROMPTS:
        return PREFIX
    return "" if key.startswith("prompt_") else "base_model."


def same_method(kind: str, config: dict[str, Any]) -> None:
    r"""Raise CourseError where a checkpoint's config is of another method than `kind`."""
    found = config.get("peft_type") if isinstance(config, dict) else config
    if found != kind:
        raise CourseError(f"this checkpoint holds {found}, not {kind}; load it with the method that wrote it")


def same_tensors(own: dict[str, Tensor], found: dict[str, Tensor], folder: str | Path) -> None:
    r"""Raise CourseError unless the checkpoint has exactly the model's tensors, in their shapes, of finite numbers."""
    missing, extra = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    if missing or extra:
        parts = [
            f"{len(keys)} {what}, such as {keys[0]}"
            for keys, what in ((missing, "missing"), (extra, "unexpected"))
            if keys
        ]
        raise CourseError(
            f"the checkpoint in {folder} is of another model or of other targets: {'; '.join(parts)}"
        )
    for key, value in own.items():
        if value.shape != found[key].shape:
            raise CourseError(
                f"the checkpoint in {folder} is of another model: {key} is {tuple(found[key].shape)} there and "
                f"{tuple(value.shape)} here"
            )
        if value.is_floating_point() and not found[key].is_floating_point():
            kind = str(found[key].dtype).removeprefix("torch.")
            raise CourseError(f"the checkpoint in {folder} is damaged: {key} holds {kind}, not real numbers")
        if value.is_floating_point() and not found[key].isfinite().all():
            raise CourseError(f"the checkpoint in {folder} is damaged: {key} holds NaN or infinity")


def task_type(model: Any) -> str | None:
    r"""peft's name for what `model` does, read from its class; None for a bare body."""
    name = type(model).__name__
    kinds = {
        "ForSequenceClassification": "SEQ_CLS",
        "LMHeadModel": "CAUSAL_LM",
        "ForCausalLM": "CAUSAL_LM",
        "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    }
    return next((task for suffix, task in kinds.items() if name.endswith(suffix)), None)


def common_config(model: Any, kind: str) -> dict[str, Any]:
    r"""The entries of `adapter_config.json` that every method has."""
    return {
        "peft_type": kind,
        "task_type": task_type(model),
        "base_model_name_or_path": getattr(model.config, "_name_or_path", None) or None,
        "inference_mode": True,
    }
