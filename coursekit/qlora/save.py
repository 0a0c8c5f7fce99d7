r"""A model in 4 bits as a folder that transformers reads with bitsandbytes, and `load_quantized` without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from coursekit.errors import CourseError
from coursekit.files import replaced_files
from coursekit.methods.mechanism.attachment import attached
from coursekit.qlora.linear import Linear4bit
from coursekit.quantization.double import Double


def save_quantized(model: nn.Module, folder: str | Path, **settings: Any) -> Path:
    r"""Write `model` as it is, codes and all; the config says which layers are in codes.

    settings: of `save_pretrained`, such as max_shard_size. Raises CourseError, before anything is written, for a
    model without layers in 4 bits, for one that carries methods, for codes that bitsandbytes does not have, and where
    `folder` cannot be a folder; whole or not at all, where a disk is full.
    """
    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    if not layers:
        raise CourseError("no layer of this model is in 4 bits: write it with model.save_pretrained(folder)")
    if attached(model):
        raise CourseError(
            "this model carries methods: save those with method.save(model, folder), detach(model), then save the base"
        )
    for layer in layers:
        layer.state_dict()  # the error for what bitsandbytes lacks, before the first file
    dense = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and not isinstance(m, Linear4bit)]
    q, dtype = layers[0].quantized, layers[0].compute_dtype or model.dtype
    model.config.quantization_config = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": q.code,
        "bnb_4bit_use_double_quant": isinstance(q.absmax, Double),
        "bnb_4bit_compute_dtype": str(dtype).removeprefix("torch."),
        "llm_int8_skip_modules": dense,  # its name for both kinds
    }
    try:
        with replaced_files(folder, "the model", old="model*.safetensors*") as part:
            model.save_pretrained(part, **settings)
    finally:
        del model.config.quantization_config
    return Path(folder)
