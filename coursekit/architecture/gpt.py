r"""Decoders with LayerNorm: GPT-2, OPT, and GPT-NeoX (Pythia)."""

from __future__ import annotations

from typing import Any

from coursekit.architecture.shapes import Architecture, Matrix, norms


def gpt2(family: str, c: Any) -> Architecture:
    r"""GPT-2, whose linear layers are Conv1D."""
    d = c.n_embd
    ff = c.n_inner or 4 * d
    return Architecture(
        family, d, c.n_layer, c.n_head, c.n_head, d // c.n_head, ff, c.vocab_size, False, "layer",
        norms(d, True, ("ln_1", "ln_2"), ("ln_f",)), "h", "transformer",
        (
            Matrix("attn.c_attn", d, 3 * d, True, kind="conv1d"),  # q, k and v side by side
            Matrix("attn.c_proj", d, d, True, kind="conv1d"),
            Matrix("mlp.c_fc", d, ff, True, kind="conv1d"),
            Matrix("mlp.c_proj", ff, d, True, kind="conv1d"),
            Matrix("wte", c.vocab_size, d, False, False, "embedding"),
            Matrix("wpe", c.n_positions, d, False, False, "embedding"),
        ),
        tied=bool(c.tie_word_embeddings), pre_norm=True, activation=c.activation_function,
        dropout=c.resid_pdrop, attention_dropout=c.attn_pdrop, encoder=False,
    )  # fmt: skip


def opt(family: str, c: Any) -> Architecture:
    r"""OPT; its 350M model embeds in 512 and projects to 1024, and normalises after the residual."""
    d, ff, bias = c.hidden_size, c.ffn_dim, c.enable_bias
    narrow = c.word_embed_proj_dim != d
    last = c.do_layer_norm_before and not c._remove_final_layer_norm
    return Architecture(
        family, d, c.num_hidden_layers, c.num_attention_heads, c.num_attention_heads, d // c.num_attention_heads, ff,
        c.vocab_size, False, "layer",
        norms(
            d, True, ("self_attn_layer_norm", "final_layer_norm"), ("decoder.final_layer_norm",) if last else ()
        ),
        "decoder.layers", "model",
        (
            *[Matrix(f"self_attn.{n}", d, d, bias) for n in ("k_proj", "v_proj", "q_proj", "out_proj")],
            Matrix("fc1", d, ff, bias),
            Matrix("fc2", ff, d, bias),
            Matrix("decoder.embed_tokens", c.vocab_size, c.word_embed_proj_dim, False, False, "embedding"),
            # OPT's position table starts two rows late, so it holds two rows more than there are positions.
            Matrix("decoder.embed_positions", c.max_position_embeddings + 2, d, False, False, "embedding"),
            *([Matrix("decoder.project_in", c.word_embed_proj_dim, d, False, False),
               Matrix("decoder.project_out", d, c.word_embed_proj_dim, False, False)] if narrow else []),
        ),
        tied=bool(c.tie_word_embeddings), pre_norm=c.do_layer_norm_before, activation=c.activation_function,
        dropout=c.dropout, attention_dropout=c.attention_dropout, encoder=False,
    )  # fmt: skip


def gpt_neox(family: str, c: Any) -> Architecture:
    r"""GPT-NeoX and Pythia: attention and feed-forward side by side, q, k and v of each head in one matrix."""
    d, ff, bias = c.hidden_size, c.intermediate_size, bool(c.attention_bias)
    heads = c.num_attention_heads
    return Architecture(
        family, d, c.num_hidden_layers, heads, heads, d // heads, ff, c.vocab_size, False, "layer",
        norms(d, True, ("input_layernorm", "post_attention_layernorm"), ("final_layer_norm",)), "layers", "gpt_neox",
        (
            Matrix("attention.query_key_value", d, 3 * d, bias),
            Matrix("attention.dense", d, d, bias),
            Matrix("mlp.dense_h_to_4h", d, ff, True),
            Matrix("mlp.dense_4h_to_h", ff, d, True),
            Matrix("embed_in", c.vocab_size, d, False, False, "embedding"),
        ),
        tied=bool(c.tie_word_embeddings), pre_norm=True, activation=c.hidden_act,
        dropout=c.hidden_dropout, attention_dropout=c.attention_dropout, encoder=False,
    )  # fmt: skip
