r"""Where each family keeps its attention, and how queries, keys and values are made there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.architecture import Architecture, describe
from coursekit.errors import CourseError
from coursekit.methods.mechanism import branch
from coursekit.methods.mechanism.modules import body_prefix


@dataclass(frozen=True)
class AttentionNames:
    r"""Names of the modules around one family's attention, and how it is called."""

    path: str  # of the attention, inside a block
    query: str  # the same as key and value where one matrix makes all three
    key: str
    value: str
    output: str | None  # the output projection, where it is a part of the attention module
    positions: str  # in the body: what makes vectors, or rotations, of positions
    #: The argument that carries the KV cache; None where there is none, and so no way in for a prefix.
    cache: str | None = "cache"
    by_head: bool = False  # one matrix makes q, k and v of the first head, then of the second, and so on


#: The change that a method around the attention makes, in words.
ATTENTION = "keys and values of the attention"

_BERT = AttentionNames("attention.self", "query", "key", "value", None, "embeddings.position_embeddings")
_LLAMA = AttentionNames("self_attn", "q_proj", "k_proj", "v_proj", "o_proj", "rotary_emb")
_NEOX = "query_key_value"
NAMES = {
    "bert": _BERT,
    "roberta": _BERT,
    "electra": _BERT,
    "distilbert": AttentionNames(
        "attention", "q_lin", "k_lin", "v_lin", "out_lin", "embeddings.position_embeddings", cache=None
    ),
    "modernbert": AttentionNames("attn", "Wqkv", "Wqkv", "Wqkv", "Wo", "rotary_emb", cache=None),
    "gpt2": AttentionNames("attn", "c_attn", "c_attn", "c_attn", "c_proj", "wpe"),
    "opt": AttentionNames("self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "decoder.embed_positions"),
    "gpt_neox": AttentionNames(
        "attention", _NEOX, _NEOX, _NEOX, "dense", "rotary_emb", cache="layer_past", by_head=True
    ),
    "llama": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3": _LLAMA,
    "phi3": AttentionNames("self_attn", "qkv_proj", "qkv_proj", "qkv_proj", "o_proj", "rotary_emb"),
}
#: Why there is no place for keys and values that stand nowhere in the text.
_NOWHERE = {
    "deberta-v2": "its disentangled attention scores each key by its distance in the text as well",
    "t5": "its attention adds a bias to each score by the distance in the text",
}


def names_of(arch: Architecture) -> AttentionNames:
    r"""The names of this family. CourseError where trained keys and values are not defined."""
    if arch.family in _NOWHERE:
        raise CourseError(
            f"trained keys and values are not defined for {arch.family}: {_NOWHERE[arch.family]}, and these stand "
            "nowhere in it; take LoRA, or a bottleneck adapter such as PfeifferAdapter"
        )
    return NAMES[arch.family]


def attention_paths(model: nn.Module) -> list[str]:
    r"""The self-attention of every block of `model`, first block first, whether or not a wrapper is around it."""
    arch, prefix = describe(model.config), body_prefix(model)
    return [f"{prefix}{arch.block_path(layer)}.{names_of(arch).path}" for layer in range(arch.n_layers)]


def keys_values(
    attention: nn.Module, arch: Architecture, x: Float[Tensor, "n d_model"]
) -> tuple[Float[Tensor, "kv_heads n head_dim"], Float[Tensor, "kv_heads n head_dim"]]:
    r"""Keys and values that `attention` would make of the hidden states `x`, without positions."""
    names = names_of(arch)
    if names.key == names.query:
        _, k, v = _apart(getattr(attention, names.key)(x), arch)
    else:
        shape = (arch.n_kv_heads, arch.head_dim)
        k, v = (getattr(attention, name)(x).unflatten(-1, shape) for name in (names.key, names.value))
    if arch.normed_heads:
        k = attention.k_norm(k)
    return k.transpose(0, 1), v.transpose(0, 1)  # (n, kv_heads, head_dim) -> (kv_heads, n, head_dim)


def queries(
    attention: nn.Module, arch: Architecture, made: Float[Tensor, "batch seq width"],
    rotation: tuple[Tensor, Tensor] | None,
) -> Float[Tensor, "batch seq heads head_dim"]:  # fmt: skip
    r"""One query for each token and head, from what the query layer of `attention` `made`.

    rotation: cosines and sines of a rotary embedding, (batch or 1, seq, rotated), where the first `rotated` numbers of
    each head are rotated: all of them, but in GPT-NeoX and Phi-3. SmolLM3 has layers without rotation.
    """
    names = names_of(arch)
    # (batch, seq, width) -> (batch, seq, heads, head_dim); a layer for all three makes keys and values as well
    q = _apart(made, arch)[0] if names.key == names.query else made.unflatten(-1, (arch.n_heads, arch.head_dim))
    if arch.normed_heads:
        q = attention.q_norm(q)
    if rotation is None or not getattr(attention, "use_rope", True):
        return q
    cos, sin = (part.unsqueeze(2) for part in rotation)
    turned, rest = q[..., : cos.shape[-1]], q[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def _apart(made: Float[Tensor, "*batch width"], arch: Architecture) -> tuple[Tensor, ...]:
    r"""Queries, keys and values, each (*batch, heads, head_dim), of what one layer made for all three."""
    if names_of(arch).by_head:
        return made.unflatten(-1, (arch.n_heads, 3 * arch.head_dim)).chunk(3, dim=-1)
    parts = made.split([arch.d_q, arch.d_kv, arch.d_kv], dim=-1)
    return tuple(part.unflatten(-1, (-1, arch.head_dim)) for part in parts)


def like(module: nn.Module) -> dict[str, Any]:
    r"""Device and precision of parameters beside the frozen `module`, as `branch.like` has them for a weight."""
    # Not the first parameter: a layer in 4 bits has none.
    return branch.like(next(part.weight for part in module.modules() if hasattr(part, "weight")))
