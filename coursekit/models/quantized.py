r"""From files on disk straight into 4 bits: the model is never there in 16, not even for a moment.

The model is built without memory for its weights. Then one tensor after the other is read, quantized or put in its
place, and dropped. So a 7 B model needs its 4-bit size and the largest of its matrices, not 14 GB.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.device import pick_device, pick_dtype
from coursekit.errors import CourseError
from coursekit.methods.mechanism.modules import is_conv1d, replace
from coursekit.models.hub import check_decoder, check_settings, finished, locate, one_line, quiet
from coursekit.qlora.linear import Linear4bit
from coursekit.qlora.model import SKIP, quantizable
from coursekit.quantization.bnb import from_state_dict
from coursekit.quantization.codes import code as table

#: Files of a model on the hub that are needed: no copies of the weights in other formats.
NEEDED = ["*.json", "*.safetensors", "*.model", "*.txt"]


def load_quantized(
    name: str | Path = "smollm2", *, skip: Iterable[str] | str = SKIP, code: str = "nf4", block: int = 64,
    double: bool = True, compute_dtype: torch.dtype | None = None, device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None, attention: str | None = None,
) -> tuple[nn.Module, Any]:  # fmt: skip
    r"""A decoder in eval mode with its linear layers in 4 bits, and its tokenizer.

    To the bit what `quantize_model(load_decoder(name)[0])` gives, without the dense model. A checkpoint that is in 4
    bits on disk, from bitsandbytes, is read as it is. name, device, dtype and attention: as for `load_decoder`;
    dtype is that of what stays dense. The rest: as for `quantize_model`.

    Raises CourseError where `load_decoder` does, for settings that `quantize_model` refuses, and for a checkpoint
    without safetensors.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    table(code)
    check_settings(dtype, attention)
    device = pick_device(device)
    source = locate(name, classifier=False)
    with one_line(name, source):
        folder = Path(source) if Path(source).is_dir() else _download(source)
        config = AutoConfig.from_pretrained(folder)
        check_decoder(name, config)
        dtype = _dtype(dtype, config) or pick_dtype(device)
        wanted = {"attn_implementation": attention} if attention else {}
        with init_empty_weights(include_buffers=False), quiet():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, **wanted)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        paths = set(quantizable(model, skip))
        if not paths:
            raise CourseError("nothing to quantize: the model has no linear layers but those that are skipped")
        written: dict[str, dict[str, Tensor]] = {}  # layers that are in codes on disk: their entries
        for path, entry, tensor in _in_place(model, tensors(folder)):
            layer, _, leaf = path.rpartition(".")
            module = model.get_submodule(layer)
            if entry or not tensor.is_floating_point():
                written.setdefault(layer, {})[f"weight.{entry}".rstrip(".")] = tensor.to(device)
                continue
            setattr(module, leaf, nn.Parameter(tensor.to(device, dtype)))
            if leaf == "weight" and layer in paths:
                replace(model, layer, Linear4bit.from_linear(module, code, block, double, compute_dtype))
        for layer, entries in written.items():
            module, q = model.get_submodule(layer), from_state_dict(entries)
            replace(model, layer, Linear4bit(q, module.bias, compute_dtype, is_conv1d(module)).to(dtype))
        if hasattr(model.config, "quantization_config"):  # bitsandbytes' own; these layers are ours
            del model.config.quantization_config
        model.tie_weights()
        missing = [path for path, parameter in model.named_parameters() if parameter.is_meta]
        if missing:
            raise CourseError(
                f"the checkpoint {str(name)!r} does not fit {type(model).__name__}: {len(missing)} tensors are not in "
                f"it, for example {min(missing)}"
            )
        return finished(model.to(device), AutoTokenizer.from_pretrained(folder))


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    r"""(name, tensor) of everything in the safetensors files of `folder`, one at a time.

    A file is opened anew for each tensor: what an open one has been asked for stays mapped into memory.
    """
    from safetensors import safe_open

    for file in _files(folder):
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
        for name in names:
            with safe_open(file, "pt") as opened:
                tensor = opened.get_tensor(name)
            yield name, tensor


def _files(folder: Path) -> list[Path]:
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    if single.is_file():
        return [single]
    raise CourseError(
        f"{folder} has no model.safetensors: load it dense with load_decoder and call quantize_model on it"
    )


def _in_place(model: nn.Module, found: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, str, Tensor]]:
    r"""(path of the parameter, entry, tensor) of what `model` has; the rest is left out, as transformers does.

    A checkpoint of the body alone lacks the prefix that the body has in the whole model. entry: "" but for what
    bitsandbytes writes beside codes, such as "absmax".
    """
    shapes = {path: parameter.shape for path, parameter in model.named_parameters()}
    prefix = f"{model.base_model_prefix}."
    for name, tensor in found:
        stem, codes, entry = name.partition(".weight.")
        name = f"{stem}.weight" if codes else name
        path = next((p for p in (name, prefix + name, name.removeprefix(prefix)) if p in shapes), None)
        if path is None:
            continue
        if tensor.is_floating_point() and not entry and tensor.shape != shapes[path]:
            raise CourseError(
                f"{name} is {tuple(tensor.shape)} in the checkpoint, and the config asks for {tuple(shapes[path])}"
            )
        yield path, entry, tensor


def _download(source: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, allow_patterns=NEEDED))


def _dtype(dtype: str | torch.dtype | None, config: Any) -> torch.dtype | None:
    r"""The precision that is meant, as transformers reads it: "auto" is the checkpoint's own."""
    if dtype == "auto":
        return getattr(config, "dtype", None) or torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype
