r"""What a model is made of: blocks, norms, attention and feed-forward, read from its modules or from a description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from coursekit.architecture import Architecture, Matrix, Norm
from coursekit.methods.mechanism.modules import standing
from coursekit.methods.mechanism.skeleton import described, has_masked_model
from coursekit.methods.mechanism.switch import Switched


@dataclass(frozen=True)
class Anatomy:
    r"""Paths inside the body of a model."""

    family: str  # of a description, or the model type
    blocks: tuple[
        str, ...
    ]  # in the order in which a text passes through them: an encoder's before a decoder's
    norms: tuple[str, ...]
    attention: tuple[str, ...]  # the linear maps of the blocks' attention
    feedforward: tuple[str, ...]  # all other linear maps of the blocks

    def inside(self, path: str) -> int | None:
        r"""The number of the block that `path` leads into; None outside of the blocks."""
        return next((i for i, block in enumerate(self.blocks) if path.startswith(f"{block}.")), None)

    def name(self, path: str) -> str:
        r"""`path` without the block that it leads into."""
        number = self.inside(path)
        return path if number is None else path.removeprefix(f"{self.blocks[number]}.")


def anatomy(model: nn.Module) -> Anatomy:
    r"""What `model` is made of, whatever its family and whatever stands around its modules by now.

    Blocks are the members of the outermost lists of modules that hold linear layers; a norm is a module with
    parameters and "Norm" in the name of its class; a linear map belongs to the attention where its path says so.
    """
    linear: tuple[type, ...] = (nn.Linear, Conv1D)
    modules = [(p, m) for p, m in standing(model.base_model) if not isinstance(m, Switched)]
    blocks: list[str] = []
    for path, module in modules:
        if isinstance(module, nn.ModuleList) and not path.startswith(tuple(f"{b}." for b in blocks)):
            blocks += [
                f"{path}.{name}"
                for name, block in module.named_children()
                if any(isinstance(part, linear) for part in block.modules())
            ]
    norms = [p for p, m in modules if "Norm" in type(m).__name__ and m._parameters]
    start = tuple(f"{block}." for block in blocks)
    maps = [p for p, m in modules if isinstance(m, linear) and p.startswith(start)]
    arch = described(model.config)
    family = arch.family if arch else model.config.model_type
    return Anatomy(family, tuple(blocks), tuple(norms), *_sorted(maps))


def encoder_decoder(model: nn.Module) -> bool:
    r"""Whether `model` has an encoder and a decoder that reads what it makes of the text."""
    return bool(model.config.is_encoder_decoder) and hasattr(model.base_model, "decoder")


def reads_both_ways(model: nn.Module) -> bool:
    r"""Whether `model` is an encoder: every token sees those after it."""
    if encoder_decoder(model):
        return False
    if arch := described(model.config):
        return arch.encoder
    config = model.config
    return config.is_encoder_decoder or (
        has_masked_model(config) and not getattr(config, "is_decoder", False)
    )


def anatomy_of(arch: Architecture) -> Anatomy:
    r"""The same from a description."""
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
        *_sorted(inside([m for m in arch.matrices if m.kind != "embedding"])),
    )


def in_attention(path: str) -> bool:
    r"""Whether a linear map at `path` belongs to an attention, as every family calls it in some way."""
    return "att" in path.lower()


def _sorted(maps: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    across = tuple(path for path in maps if in_attention(path))
    return across, tuple(path for path in maps if not in_attention(path))
