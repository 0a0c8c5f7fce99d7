r"""Where each family keeps its attention, and how queries, keys and values are made there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.architecture import Architecture, describe
from coursekit.methods.mechanism.modules import body_prefix


@dataclass(frozen=True)
class Site:
    r"""The names around the attention of one family. Three times one name: one map makes q, k and v side by side."""

    path: str  # of the attention, inside a block
    query: str
    key: str
    value: str
    output: str | None  # the output projection, where it is a part of the attention module
    positions: str  # in the body: what makes vectors, or rotations, of positions


#: What a method that stands around the attention changes, in words.
ATTENTION = "keys and values of the attention"

SITES = {
    "bert": Site("attention.self", "query", "key", "value", None, "embeddings.position_embeddings"),
    "roberta": Site("attention.self", "query", "key", "value", None, "embeddings.position_embeddings"),
    "gpt2": Site("attn", "c_attn", "c_attn", "c_attn", "c_proj", "wpe"),
    "opt": Site("self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "decoder.embed_positions"),
    "llama": Site("self_attn", "q_proj", "k_proj", "v_proj", "o_proj", "rotary_emb"),
}


def attention_paths(model: nn.Module) -> list[str]:
    r"""The self-attention of every block of `model`, first block first, whether or not something stands around it."""
    arch, prefix = describe(model.config), body_prefix(model)
    return [f"{prefix}{arch.block}.{layer}.{SITES[arch.family].path}" for layer in range(arch.n_layers)]


def positions_path(model: nn.Module) -> str:
    r"""The module of `model` that is asked for the positions, once in a forward pass."""
    return body_prefix(model) + SITES[describe(model.config).family].positions


def room(config: Any) -> int | None:
    r"""How many positions a model has vectors for; None for Llama's rotation, which has no end."""
    family = describe(config).family
    if family == "llama":
        return None
    # RoBERTa's positions begin behind the padding's number.
    return config.max_position_embeddings - (config.pad_token_id + 1 if family == "roberta" else 0)


def keys_values(
    attention: nn.Module, arch: Architecture, x: Float[Tensor, "n d_model"]
) -> tuple[Float[Tensor, "kv_heads n head_dim"], Float[Tensor, "kv_heads n head_dim"]]:
    r"""Keys and values that `attention` would make of the hidden states `x`, without positions."""
    site = SITES[arch.family]
    if site.key == site.query:
        _, k, v = getattr(attention, site.key)(x).split(arch.d_model, dim=-1)
    else:
        k, v = getattr(attention, site.key)(x), getattr(attention, site.value)(x)
    shape = (len(x), arch.n_kv_heads, arch.head_dim)
    # (n, kv_heads * head_dim) -> (n, kv_heads, head_dim) -> (kv_heads, n, head_dim)
    return k.view(shape).transpose(0, 1), v.view(shape).transpose(0, 1)


def queries(
    made: Float[Tensor, "batch seq width"],
    arch: Architecture,
    rotation: tuple[Tensor, Tensor] | None,
) -> Float[Tensor, "batch seq heads head_dim"]:
    r"""The queries in what a family's query map `made`, one vector for each head, at their tokens' positions.

    rotation: cosines and sines of Llama's rotary embedding, (batch or 1, seq, head_dim).
    """
    # (batch, seq, width) -> (batch, seq, heads, head_dim); GPT-2's map makes keys and values as well
    q = made[..., : arch.d_q].unflatten(-1, (arch.n_heads, arch.head_dim))
    if rotation is None:
        return q
    cos, sin = (part.unsqueeze(2) for part in rotation)
    first, second = q.chunk(2, dim=-1)
    return q * cos + torch.cat((-second, first), dim=-1) * sin


def like(attention: nn.Module) -> dict[str, Any]:
    r"""Where new parameters belong. Full precision on a 16-bit base: small steps would vanish in seven bits."""
    # Not the first parameter: a layer in 4 bits has none.
    weight = next(module.weight for module in attention.modules() if hasattr(module, "weight"))
    return {
        "device": weight.device,
        "dtype": torch.float64 if weight.dtype == torch.float64 else torch.float32,
    }
