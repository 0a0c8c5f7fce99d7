r"""A whole model with its linear layers in 4 bits: what LoRA then stands beside is QLoRA's frozen base.

Dettmers et al. 2023 (QLoRA, arXiv:2305.14314), section 3. Embeddings, norms and the output layer keep their precision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from coursekit.errors import CourseError, flag
from coursekit.methods.mechanism.modules import head_names, output_layer, replace
from coursekit.methods.mechanism.names import matches
from coursekit.qlora.linear import Linear4bit, floating
from coursekit.quantization.checks import block_of
from coursekit.quantization.codes import code as table

#: Left alone unless something else is asked for: the output layer, whatever the model calls it, if it has one.
SKIP = ("lm_head",)


def quantize_model(
    model: nn.Module, skip: Iterable[str] | str = SKIP, code: str = "nf4", block: int = 64, double: bool = True,
    compute_dtype: torch.dtype | None = None,
) -> nn.Module:  # fmt: skip
    r"""Put a `Linear4bit` in the place of every `nn.Linear` and `Conv1D` of `model`, in place, and give it back.

    skip: modules that keep their precision, named as the targets of methods are. Task heads keep it always, since
    methods train them whole, and so does an output layer that shares the embedding. code, block, double: see
    `quantize_blockwise`. compute_dtype: precision of the products, None for that of what comes in.

    One layer after the other: at no time is more than one weight there in both forms. An interrupted call can be
    called again, and goes on.

    Raises CourseError, before anything is changed, for settings that make no sense, a weight that is not finite or
    not in memory, a model that carries methods, a name in `skip` that fits no module, and a model with nothing to
    quantize.
    """
    flag("double", double)
    floating("compute_dtype", compute_dtype)
    if getattr(model, "_coursekit", None) is not None:
        raise CourseError(
            "this model carries methods: quantize first, then attach; to put a trained adapter into 4 bits, call "
            "merge(model, undo=False) before"
        )
    paths = to_quantize(model, skip, code, block)
    for path in paths:
        weight = model.get_submodule(path).weight
        if weight.is_meta:
            raise CourseError(f"the weight of {path} is not in memory: load_quantized(name) quantizes as it reads")
        if weight.numel() and not torch.stack(weight.aminmax()).isfinite().all():  # faster than for all weights
            raise CourseError(f"the weight of {path} holds infinities or NaN, which have no code: load it again")
    for path in paths:
        replace(model, path, Linear4bit.from_linear(model.get_submodule(path), code, block, double, compute_dtype))
    return model


def quantizable(model: nn.Module, skip: Iterable[str] | str = SKIP) -> list[str]:
    r"""Paths of the layers that `quantize_model` would put into 4 bits. CourseError for a skip that fits nothing."""
    if not isinstance(model, nn.Module):
        raise CourseError(f"model must be a PyTorch model; got {type(model).__name__}.")
    skip = (skip,) if isinstance(skip, str) else tuple(skip)
    linear = [path for path, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    for name in skip:
        if name not in SKIP and not any(matches(path, name) for path in linear):
            candidates = ", ".join(sorted({path.rsplit(".", 1)[-1] for path in linear}))
            raise CourseError(f"skip names {name!r}, which no linear layer is called; candidates: {candidates}")
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    heads = head_names(model)
    output = output_layer(model) if "lm_head" in skip else None
    return [
        path
        for path in linear
        # Not a subclass: it may do more with its weight than multiply.
        if type(layer := model.get_submodule(path)) in (nn.Linear, Conv1D)
        and layer is not output
        and owners[id(layer.weight)] == 1
        and path.split(".")[0] not in heads
        and not any(matches(path, name) for name in skip)
    ]


def to_quantize(model: nn.Module, skip: Iterable[str] | str, code: str, block: int) -> list[str]:
    r"""The same, with a CourseError for settings that make no sense and where there is no such layer."""
    block_of(block, (len(table(code)) - 1).bit_length())
    paths = quantizable(model, skip)
    if not paths:
        there = any(isinstance(module, Linear4bit) for module in model.modules())
        raise CourseError(
            "this model is quantized already: load it again for other settings"
            if there
            else "nothing to quantize: the model has no nn.Linear or Conv1D but those that are skipped"
        )
    return paths
