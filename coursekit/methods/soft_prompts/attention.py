r"""Where each family keeps its attention, and how queries, keys and values are made there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.architecture import Architecture, describe
from coursekit.errors import CourseError
from coursekit.methods.mechanism import precision
from coursekit.methods.mechanism.modules import body_prefix


@dataclass(frozen=True)
class AttentionNames:
    r"""Names of the modules around one family's attention. In GPT-2 one matrix makes q, k and v side by side."""

    path: str  # of the attention, inside a block
    query: str
    key: str
    value: str
    output: str | None  # the output projection, where it is a part of the attention module
    positions: str  # in the body: what makes vectors, or rotations, of positions


#: What a method that stands around the attention changes, in words.
ATTENTION = "keys and values of the attention"

_BERT = AttentionNames("attention.self", "query", "key", "value", None, "embeddings.position_embeddings")
NAMES = {
    "bert": _BERT,
    "roberta": _BERT,
    "gpt2": AttentionNames("attn", "c_attn", "c_attn", "c_attn", "c_proj", "wpe"),
    "opt": AttentionNames("self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "decoder.embed_positions"),
    "llama": AttentionNames("self_attn", "q_proj", "k_proj", "v_proj", "o_proj", "rotary_emb"),
}


def attention_paths(model: nn.Module) -> list[str]:
    r"""The self-attention of every block of `model`, first block first, whether or not something stands around it."""
    arch, prefix = describe(model.config), body_prefix(model)
    return [f"{prefix}{arch.block}.{layer}.{NAMES[arch.family].path}" for layer in range(arch.n_layers)]


def positions_path(model: nn.Module) -> str:
    r"""The module of `model` that is asked for the positions, once in a forward pass."""
    return body_prefix(model) + NAMES[describe(model.config).family].positions


def first_position(config: Any) -> int:
    r"""The position of a text's first token. RoBERTa counts from behind the padding token's id; all others from 0.

    Many decoders have no padding token: of all families only RoBERTa is asked for one.
    """
    if describe(config).family != "roberta":
        return 0
    if config.pad_token_id is None:
        raise CourseError("RoBERTa counts positions from its pad_token_id, and this config has none: set it")
    return config.pad_token_id + 1


def positions_of(config: Any) -> int | None:
    r"""How many positions a model has vectors for; None for Llama, whose rotations have no end."""
    if describe(config).family == "llama":
        return None
    return config.max_position_embeddings - first_position(config)


def keys_values(
    attention: nn.Module, arch: Architecture, x: Float[Tensor, "n d_model"]
) -> tuple[Float[Tensor, "kv_heads n head_dim"], Float[Tensor, "kv_heads n head_dim"]]:
    r"""Keys and values that `attention` would make of the hidden states `x`, without positions."""
    names = NAMES[arch.family]
    if names.key == names.query:
        _, k, v = getattr(attention, names.key)(x).split(arch.d_model, dim=-1)
    else:
        k, v = getattr(attention, names.key)(x), getattr(attention, names.value)(x)
    shape = (len(x), arch.n_kv_heads, arch.head_dim)
    # (n, kv_heads * head_dim) -> (n, kv_heads, head_dim) -> (kv_heads, n, head_dim)
    return k.view(shape).transpose(0, 1), v.view(shape).transpose(0, 1)


def queries(
    made: Float[Tensor, "batch seq width"],
    arch: Architecture,
    rotation: tuple[Tensor, Tensor] | None,
) -> Float[Tensor, "batch seq heads head_dim"]:
    r"""One query for each token and head, from what a family's query layer `made`.

    rotation: cosines and sines of Llama's rotary embedding, (batch or 1, seq, head_dim).
    """
    # (batch, seq, width) -> (batch, seq, heads, head_dim); GPT-2's layer makes keys and values as well
    q = made[..., : arch.d_q].unflatten(-1, (arch.n_heads, arch.head_dim))
    if rotation is None:
        return q
    cos, sin = (part.unsqueeze(2) for part in rotation)
    first, second = q.chunk(2, dim=-1)
    return q * cos + torch.cat((-second, first), dim=-1) * sin


def like(module: nn.Module) -> dict[str, Any]:
    r"""Device and precision of parameters beside the frozen `module`, as `precision.like` has them for a weight."""
    # Not the first parameter: a layer in 4 bits has none.
    return precision.like(next(part.weight for part in module.modules() if hasattr(part, "weight")))
