r"""What a model is made of: blocks, norms, linear maps and sizes, of a model or of a config from which none is built.

How it is found::

    config ──> is its family described? ── yes ──> `Architecture`
                                        └─ no ───> the model on the meta device, without weights
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from coursekit import counts
from coursekit.architecture import Architecture, Matrix, Norm, describe
from coursekit.errors import CourseError
from coursekit.methods.mechanism.modules import (
    EVERY,
    LINEAR,
    AdapterWrapper,
    in_a_block,
    modules_of,
    named_base_modules,
)


@dataclass(frozen=True)
class Anatomy:
    r"""Paths inside the body of a model."""

    family: str  # of a description, or the model type
    blocks: tuple[str, ...]  # in the order in which a text passes them: an encoder's before a decoder's
    norms: tuple[str, ...]
    attention: tuple[str, ...]  # the linear maps of the blocks' attention
    feedforward: tuple[str, ...]  # all other linear maps of the blocks

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {block: number for number, block in enumerate(self.blocks)}

    def inside(self, path: str) -> int | None:
        r"""The number of the block that `path` leads into; None outside of the blocks."""
        parts = path.split(".")
        starts = (".".join(parts[:end]) for end in range(1, len(parts)))
        return next((self._numbers[start] for start in starts if start in self._numbers), None)

    def name(self, path: str) -> str:
        r"""`path` without the block that it leads into."""
        number = self.inside(path)
        return path if number is None else path.removeprefix(f"{self.blocks[number]}.")


# Of a model -----------------------------------------------------------------------------------------------------------


def anatomy(model: nn.Module) -> Anatomy:
    r"""What `model` is made of, whatever its family and whatever wraps its modules by now.

    Blocks are the members of the outermost lists of modules that hold linear layers; a norm is a module with
    parameters and "Norm" in the name of its class; a linear map belongs to the attention where its path says so.
    """
    modules = [(p, m) for p, m in named_base_modules(model.base_model) if not isinstance(m, AdapterWrapper)]
    blocks: list[str] = []
    for path, module in modules:
        if isinstance(module, nn.ModuleList) and not path.startswith(tuple(f"{b}." for b in blocks)):
            blocks += [
                f"{path}.{name}"
                for name, block in module.named_children()
                if any(isinstance(part, LINEAR) for part in block.modules())
            ]
    norms = [p for p, m in modules if "Norm" in type(m).__name__ and m._parameters]
    start = tuple(f"{block}." for block in blocks)
    maps = [p for p, m in modules if isinstance(m, LINEAR) and p.startswith(start)]
    arch = described(model.config)
    family = arch.family if arch else model.config.model_type
    return Anatomy(family, tuple(blocks), tuple(norms), *_by_place(maps))


def encoder_decoder(model: nn.Module) -> bool:
    r"""Whether `model` has an encoder and a decoder that reads the encoder's states."""
    return bool(model.config.is_encoder_decoder) and hasattr(model.base_model, "decoder")


def reads_both_ways(model: nn.Module) -> bool:
    r"""Whether `model` is an encoder: every token sees those after it."""
    if encoder_decoder(model):
        return False
    if arch := described(model.config):
        return arch.encoder
    config = model.config
    return config.is_encoder_decoder or (_has_masked_model(config) and not getattr(config, "is_decoder", False))


# Of a config ----------------------------------------------------------------------------------------------------------


def anatomy_of(config: Any) -> Anatomy:
    r"""The anatomy of the model that `config` describes; `config` may be an `Architecture`."""
    arch = described(config)
    if arch is None:
        return anatomy(skeleton(config))
    blocks = tuple(arch.block_path(layer) for layer in range(arch.n_layers))
    outer = [norm for norm in arch.all_norms if not norm.per_layer]

    def inside(parts: Sequence[Matrix | Norm]) -> list[str]:
        r"""Paths of these in the blocks, block by block."""
        return [
            f"{block}.{part.name}"
            for layer, block in enumerate(blocks)
            for part in parts
            if layer in arch.layers_of(part)
        ]

    return Anatomy(
        arch.family,
        blocks,
        (*(norm.name for norm in outer), *inside(arch.all_norms)),
        *_by_place(inside([m for m in arch.matrices if m.kind != "embedding"])),
    )


def layers_of(config: Any, kinds: tuple[str, ...] = ("linear", "conv1d", "embedding")) -> dict[str, Matrix]:
    r"""Linear maps and embeddings of the model that `config` describes, by their paths in a model with a head.

    With the output layer over the vocabulary, which an encoder does not have.
    """
    if (arch := described(config)) is None:
        found = {path: _matrix(path, module) for path, module in modules_of(skeleton(config), EVERY)}
    else:
        found = {arch.in_model(path): m for m in arch.matrices for path in arch.paths(m)}
        if not arch.encoder:
            found["lm_head"] = Matrix("lm_head", arch.d_embed, arch.vocab, False, per_layer=False)
    return {path: m for path, m in found.items() if m.kind in kinds}


def linear_in_blocks(config: Any) -> dict[str, Matrix]:
    r"""The linear maps inside the blocks, by path: "all-linear"."""
    return {path: m for path, m in layers_of(config, ("linear", "conv1d")).items() if in_a_block(path)}


def sizes_of(config: Any) -> dict[str, int]:
    r"""Number of elements of every parameter of the body, by its path there; a tied one once."""
    if arch := described(config):
        return {t.name: t.size for t in counts.body(arch)}
    return {path: p.numel() for path, p in skeleton(config).base_model.named_parameters()}


def described(config: Any) -> Architecture | None:
    r"""The shapes of the model that `config` describes, or None for a family without a description."""
    if isinstance(config, Architecture):
        return config
    try:
        return describe(config)
    except CourseError:
        return None


def skeleton(config: Any) -> nn.Module:
    r"""The model of `config` on the meta device, where it takes no memory: to be read, never attached to.

    An encoder comes as a classifier of whole sequences, a decoder with its output layer. Raises CourseError for a
    config that transformers has no model for.
    """
    key = (type(config), config.to_json_string(use_diff=False))
    if key not in _BUILT:
        if len(_BUILT) >= KEPT:
            del _BUILT[next(iter(_BUILT))]
        with torch.device("meta"):
            _BUILT[key] = build(copy.deepcopy(config))
    return _BUILT[key]


#: The last skeletons by their configs: what is counted once is often counted again.
_BUILT: dict[tuple[type, str], nn.Module] = {}
KEPT = 8


def build(config: Any) -> nn.Module:
    r"""The model of `config` with random weights, of the kind that `skeleton` says."""
    import transformers as t

    if config.is_encoder_decoder:
        first: Any = t.AutoModelForSeq2SeqLM
    else:
        first = t.AutoModelForSequenceClassification if _has_masked_model(config) else t.AutoModelForCausalLM
    for builder in (first, t.AutoModel):
        if type(config) in builder._model_mapping:
            return builder.from_config(config)
    raise CourseError(
        f"transformers has no model for the config of a {config.model_type!r}: give the config of one that it can load"
    )


def _has_masked_model(config: Any) -> bool:
    r"""Whether transformers has a masked language model of this type, which only encoders have."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _matrix(path: str, module: nn.Module) -> Matrix:
    r"""The shape of a layer of a model that no description knows."""
    rows, columns = module.weight.shape
    if isinstance(module, nn.Embedding):
        return Matrix(path, rows, columns, False, False, "embedding")
    d_in, d_out, kind = (rows, columns, "conv1d") if isinstance(module, Conv1D) else (columns, rows, "linear")
    return Matrix(path, d_in, d_out, module.bias is not None, False, kind)


def in_attention(path: str) -> bool:
    r"""Whether a linear map at `path` belongs to an attention, as every family calls it in some way."""
    return "att" in path.lower()


def _by_place(maps: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    across = tuple(path for path in maps if in_attention(path))
    return across, tuple(path for path in maps if not in_attention(path))
