r"""Paths of the parts of a block, for each family.

A block with norms of its own behind its sublayers (Gemma) adds what these give, so that is h. In GPT-NeoX attention
and feed-forward stand side by side: the residual of both is the block's input. In T5 adapters stand behind
self-attention and feed-forward of both encoder and decoder, not behind the attention between them, as in Karimi
Mahabadi et al. (2021).
"""

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
_LLAMA = Places("self_attn", "mlp", "post_attention_layernorm")
_GEMMA = Places("post_attention_layernorm", "post_feedforward_layernorm", "pre_feedforward_layernorm")
_PLACES = {
    "bert": _BERT,
    "roberta": _BERT,
    "gpt2": Places("attn", "mlp", "ln_2"),
    "opt": Places("self_attn", "fc2", "final_layer_norm"),
    "llama": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "phi3": Places("resid_attn_dropout", "resid_mlp_dropout", "post_attention_layernorm"),
    "gpt_neox": Places("post_attention_dropout", "post_mlp_dropout", "post_attention_layernorm"),
    "electra": _BERT,
    "deberta-v2": _BERT,
    "distilbert": Places("attention", "ffn", "ffn", "output_layer_norm"),
    "modernbert": Places("attn", "mlp", "mlp_norm"),
    "t5": Places("layer.0.dropout", "layer.1.dropout", "layer.1.layer_norm"),
}
#: OPT-350M (do_layer_norm_before=False) normalises after the addition, like BERT.
_OPT_POST_NORM = Places("self_attn", "fc2", "fc1", "final_layer_norm")
#: A block of T5's decoder has one part more.
_T5_DECODER = Places("layer.0.dropout", "layer.2.dropout", "layer.2.layer_norm")


def places(arch: Architecture, layer: int) -> Places:
    r"""The places in block number `layer` of this architecture."""
    if arch.family == "opt" and not arch.pre_norm:
        return _OPT_POST_NORM
    if arch.decoder and arch.block_path(layer).startswith(arch.decoder[0]):
        return _T5_DECODER
    return _PLACES[arch.family]


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    r"""The blocks of `model` by path, from the bottom up."""
    arch, prefix = describe(model.config), body_prefix(model)
    paths = [prefix + arch.block_path(layer) for layer in range(arch.n_layers)]
    return {path: model.get_submodule(path) for path in paths}
