r"""Decoders with RMSNorm, rotary positions and a gated feed-forward: Llama and those made after it.

            norms of a block   q, k norm   matrices
Llama       2                  no          q, k, v, o; gate, up, down       Mistral, Qwen2, SmolLM3 alike
Qwen3       2                  yes         the same
Gemma 2     4                  no          the same
Gemma 3     4                  yes         the same
Phi-3       2                  no          qkv, o; gate and up in one, down
"""

from __future__ import annotations

from typing import Any

from coursekit.architecture.shapes import Architecture, Matrix, Norm, norms


def llama(family: str, c: Any) -> Architecture:
    r"""Llama, Mistral, Qwen2, Qwen3, SmolLM3, Gemma 2, the text model of Gemma 3, and Phi-3."""
    d, ff = c.hidden_size, c.intermediate_size
    head_dim = getattr(c, "head_dim", None) or d // c.num_attention_heads
    return Architecture(
        family, d, c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads, head_dim, ff, c.vocab_size,
        True, "rms", _norms(family, d, head_dim), "layers", "model",
        (*_matrices(family, c, head_dim), Matrix("embed_tokens", c.vocab_size, d, False, False, "embedding")),
        tied=bool(c.tie_word_embeddings), pre_norm=True,
        activation=c.hidden_activation if family in ("gemma2", "gemma3") else c.hidden_act,
        dropout=float(getattr(c, "resid_pdrop", 0.0) or 0.0),
        attention_dropout=float(getattr(c, "attention_dropout", 0.0) or 0.0), encoder=False,
    )  # fmt: skip


def _norms(family: str, d: int, head_dim: int) -> tuple[Norm, ...]:
    inside = ["input_layernorm", "post_attention_layernorm"]
    if family in ("gemma2", "gemma3"):
        inside += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    heads = ("self_attn.q_norm", "self_attn.k_norm") if family in ("qwen3", "gemma3") else ()
    return (*norms(d, False, inside, ("norm",)), *norms(head_dim, False, heads))


def _matrices(family: str, c: Any, head_dim: int) -> list[Matrix]:
    d, ff = c.hidden_size, c.intermediate_size
    d_q, d_kv = c.num_attention_heads * head_dim, c.num_key_value_heads * head_dim
    if family == "phi3":
        return [
            Matrix("self_attn.qkv_proj", d, d_q + 2 * d_kv, False),
            Matrix("self_attn.o_proj", d_q, d, False),
            Matrix("mlp.gate_up_proj", d, 2 * ff, False),
            Matrix("mlp.down_proj", ff, d, False),
        ]
    qkv = True if c.model_type == "qwen2" else bool(getattr(c, "attention_bias", False))
    out = False if c.model_type == "qwen2" else qkv
    mlp = bool(getattr(c, "mlp_bias", False))
    return [
        Matrix("self_attn.q_proj", d, d_q, qkv),
        Matrix("self_attn.k_proj", d, d_kv, qkv),
        Matrix("self_attn.v_proj", d, d_kv, qkv),
        Matrix("self_attn.o_proj", d_q, d, out),
        Matrix("mlp.gate_proj", d, ff, mlp),
        Matrix("mlp.up_proj", d, ff, mlp),
        Matrix("mlp.down_proj", ff, d, mlp),
    ]
