r"""Where the parts of a block are, for each family: what an adapter has to know of a block it does not rewrite."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from coursekit.architecture import Architecture, describe
from coursekit.methods.mechanism.modules import body_prefix


@dataclass(frozen=True)
class Places:
    r"""Paths inside a block."""

    attention: str  # outputs the attention's h, after dropout where dropout is a module
    ffn: str  # the same for the feed-forward
    ffn_input: str  # its input is the residual of the feed-forward
    ffn_norm: str | None = None  # where norms come after the addition: what normalises h + x


_BERT = Places("attention.output.dropout", "output.dropout", "intermediate", "output.LayerNorm")
_PLACES = {
    "bert": _BERT,
    "roberta": _BERT,
    "gpt2": Places("attn", "mlp", "ln_2"),
    "opt": Places("self_attn", "fc2", "final_layer_norm"),
    "llama": Places("self_attn", "mlp", "post_attention_layernorm"),
}
#: OPT-350M (do_layer_norm_before=False) normalises after the addition, like BERT.
_OPT_POST_NORM = Places("self_attn", "fc2", "fc1", "final_layer_norm")


def places(arch: Architecture) -> Places:
    r"""The places in a block of this architecture."""
    return _OPT_POST_NORM if arch.family == "opt" and not arch.pre_norm else _PLACES[arch.family]


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    r"""The blocks of `model` by path, from the bottom up."""
    arch = describe(model.config)
    path = body_prefix(model) + arch.block
    return {f"{path}.{i}": block for i, block in enumerate(model.get_submodule(path))}
