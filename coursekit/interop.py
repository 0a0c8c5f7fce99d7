r"""peft's checkpoint format: a folder with `adapter_config.json` and `adapter_model.safetensors`.

Keys are `base_model.model.` + the module's path + a suffix that names the parameter; the adapter's own name is left
out. Soft prompts wrap no module, so there a task head has the shorter prefix `base_model.`, and the prompt itself,
`prompt_embeddings`, has none; the matrices that VeRA's layers share have the shorter one. Written by hand rather than
through peft, so that saving needs no peft; a test loads every checkpoint with peft.
"""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import Tensor

from coursekit.errors import CourseError
from coursekit.files import replaced_files

CONFIG, TENSORS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
SHORT = "base_model."
#: What peft wrote before safetensors.
OLD_TENSORS = "adapter_model.bin"
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
    from safetensors.torch import save_file

    with replaced_files(folder, "a checkpoint") as part:
        plain = {_prefix(config, key) + key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        save_file(plain, part / TENSORS, metadata={"format": "pt"})
        # Sorted, but for what is in an entry: of peft's patterns the first counts.
        (part / CONFIG).write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    return Path(folder)


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    r"""The config and the tensors of a checkpoint folder, keys without peft's prefix.

    Raises CourseError where the folder is no checkpoint or a file in it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    old = (folder / OLD_TENSORS).is_file() and not (folder / TENSORS).is_file()
    for name in (CONFIG, OLD_TENSORS if old else TENSORS):
        if not (folder / name).is_file():
            raise CourseError(f"{folder} is not an adapter checkpoint: it has no {name}; save one with method.save()")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"), object_hook=Settings)
        tensors = _load_old(folder / OLD_TENSORS) if old else load_file(folder / TENSORS)
        if not isinstance(config, Settings):
            raise ValueError(f"{CONFIG} holds no settings")
    except (ValueError, OSError, SafetensorError, RecursionError, UnpicklingError) as error:
        raise CourseError(f"the checkpoint in {folder} is damaged ({error}); save it again") from error
    # peft also stores the frozen embedding when an embedding is adapted; it belongs to the base, not to the adapter.
    # Where it trains biases, it stores that of the layer inside its own, and the classifier's once more for each copy.
    learned = {
        k.removeprefix(_prefix(config, k)).replace(".base_layer.bias", ".bias"): v
        for k, v in tensors.items()
        if not any(part in k for part in (".base_layer.weight", ".original_module.", ".modules_to_save."))
    }
    whole = tuple(f"{name}." for name in config.get("modules_to_save") or ())
    biases = (k for k in learned if k.endswith(".bias") and ".lora_" not in k and not k.startswith(whole))
    if "bias" in config and not any(biases):
        config["bias"] = "none"  # what peft was told to train as well, and a model like Llama does not have
    return config, learned


def _load_old(file: Path) -> dict[str, Tensor]:
    r"""The tensors in a file of an old peft. It is a pickle, of which nothing but tensors is let in."""
    import torch

    found = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{file.name} holds no tensors")
    return found


def _prefix(config: dict[str, Any], key: str) -> str:
    r"""Prefix that peft writes before `key` in a checkpoint of this kind."""
    if config.get("peft_type") == "VERA" and key.removeprefix(SHORT) in ("vera_A", "vera_B"):
        return SHORT  # they belong to the whole model
    if config.get("peft_type") not in SOFT_PROMPTS:
        return PREFIX
    return "" if key.startswith("prompt_") else SHORT


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
        raise CourseError(f"the checkpoint in {folder} is of another model or of other targets: {'; '.join(parts)}")
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
