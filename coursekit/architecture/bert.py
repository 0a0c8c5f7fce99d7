r"""BERT and its relatives, which normalise after the residual: RoBERTa, ELECTRA, DistilBERT, DeBERTa v2 and v3."""

from __future__ import annotations

from typing import Any

from coursekit.architecture.shapes import Architecture, Matrix, Norm, norms

_INSIDE = ("attention.output.LayerNorm", "output.LayerNorm")


def bert(family: str, c: Any) -> Architecture:
    r"""BERT, RoBERTa, and ELECTRA, whose embedding may be narrower than the model."""
    d, ff = c.hidden_size, c.intermediate_size
    embed = c.embedding_size if family == "electra" else d
    attention = [Matrix(f"attention.{n}", d, d, True) for n in ("self.query", "self.key", "self.value", "output.dense")]
    return Architecture(
        family, d, c.num_hidden_layers, c.num_attention_heads, c.num_attention_heads, d // c.num_attention_heads, ff,
        c.vocab_size, False, "layer",
        (*norms(d, True, _INSIDE), *norms(embed, True, (), ("embeddings.LayerNorm",))),
        "encoder.layer", family,
        (
            *attention,
            Matrix("intermediate.dense", d, ff, True),
            Matrix("output.dense", ff, d, True),
            Matrix("embeddings.word_embeddings", c.vocab_size, embed, False, False, "embedding"),
            Matrix("embeddings.position_embeddings", c.max_position_embeddings, embed, False, False, "embedding"),
            Matrix("embeddings.token_type_embeddings", c.type_vocab_size, embed, False, False, "embedding"),
            # RoBERTa's classifier reads the first token itself and has no pooler.
            *([Matrix("pooler.dense", d, d, True, False)] if family == "bert" else []),
            *([Matrix("embeddings_project", embed, d, True, False)] if embed != d else []),
        ),
        tied=bool(getattr(c, "tie_word_embeddings", True)), pre_norm=False, activation=c.hidden_act,
        dropout=c.hidden_dropout_prob, attention_dropout=c.attention_probs_dropout_prob, encoder=True,
        before=("embeddings.LayerNorm",),
    )  # fmt: skip


def distilbert(family: str, c: Any) -> Architecture:
    r"""BERT with half its blocks, without token types and pooler."""
    d, ff = c.dim, c.hidden_dim
    return Architecture(
        family, d, c.n_layers, c.n_heads, c.n_heads, d // c.n_heads, ff, c.vocab_size, False, "layer",
        norms(d, True, ("sa_layer_norm", "output_layer_norm"), ("embeddings.LayerNorm",)),
        "transformer.layer", "distilbert",
        (
            *[Matrix(f"attention.{n}_lin", d, d, True) for n in ("q", "k", "v", "out")],
            Matrix("ffn.lin1", d, ff, True),
            Matrix("ffn.lin2", ff, d, True),
            Matrix("embeddings.word_embeddings", c.vocab_size, d, False, False, "embedding"),
            Matrix("embeddings.position_embeddings", c.max_position_embeddings, d, False, False, "embedding"),
        ),
        tied=bool(getattr(c, "tie_word_embeddings", True)), pre_norm=False, activation=c.activation,
        dropout=c.dropout, attention_dropout=c.attention_dropout, encoder=True, before=("embeddings.LayerNorm",),
    )  # fmt: skip


def deberta(family: str, c: Any) -> Architecture:
    r"""DeBERTa v2 and v3: disentangled attention over contents and relative positions (He et al. 2021).

    Its larger models have a convolution beside the first block, and share the projections of the positions with
    those of the contents.
    """
    d, ff = c.hidden_size, c.intermediate_size
    embed, heads = getattr(c, "embedding_size", d) or d, c.num_attention_heads
    head_dim = getattr(c, "attention_head_size", None) or d // heads
    relative = bool(getattr(c, "relative_attention", False))
    kinds = (c.pos_att_type or ()) if relative and not getattr(c, "share_att_key", False) else ()
    positions = getattr(c, "max_relative_positions", -1)
    positions = c.max_position_embeddings if positions < 1 else positions
    buckets = getattr(c, "position_buckets", -1)
    buckets = buckets if buckets > 0 else positions
    window = getattr(c, "conv_kernel_size", 0) or 0
    normed = "layer_norm" in getattr(c, "norm_rel_ebd", "none").lower()
    q = heads * head_dim
    projections = [
        Matrix(f"attention.self.{n}_proj", d, q, True)
        for n in ("query", "key", "value", *["pos_key"] * ("c2p" in kinds), *["pos_query"] * ("p2c" in kinds))
    ]
    tables = {
        "embeddings.word_embeddings": (c.vocab_size, embed),
        "embeddings.position_embeddings": (
            c.max_position_embeddings * getattr(c, "position_biased_input", True),
            embed,
        ),
        "embeddings.token_type_embeddings": (c.type_vocab_size, embed),
        "encoder.rel_embeddings": (2 * buckets * relative, d),
    }
    outside = ["embeddings.LayerNorm", *["encoder.conv.LayerNorm"] * (window > 0)]
    table = [Norm("encoder.LayerNorm", d, True, per_layer=False, of_tokens=False)] * normed
    return Architecture(
        family, d, c.num_hidden_layers, heads, heads, head_dim, ff, c.vocab_size, False, "layer",
        (*norms(d, True, _INSIDE, outside), *table), "encoder.layer", "deberta",
        (
            *projections,
            Matrix("attention.output.dense", q, d, True),
            Matrix("intermediate.dense", d, ff, True),
            Matrix("output.dense", ff, d, True),
            *[Matrix(name, rows, width, False, False, "embedding") for name, (rows, width) in tables.items() if rows],
            *([Matrix("embeddings.embed_proj", embed, d, False, False)] if embed != d else []),
            *([Matrix("encoder.conv.conv", d, d, True, False, "convolution", window=window)] if window else []),
        ),
        tied=bool(getattr(c, "tie_word_embeddings", True)), pre_norm=False, activation=c.hidden_act,
        dropout=c.hidden_dropout_prob, attention_dropout=c.attention_probs_dropout_prob, encoder=True,
        before=(*outside, "encoder.LayerNorm"),
    )  # fmt: skip


def modernbert(family: str, c: Any) -> Architecture:
    r"""ModernBERT: an encoder that normalises first, with q, k, v and the gated feed-forward each in one matrix."""
    d, ff = c.hidden_size, int(c.intermediate_size)
    heads, layers, bias = c.num_attention_heads, c.num_hidden_layers, bool(c.norm_bias)
    return Architecture(
        family, d, layers, heads, heads, d // heads, ff, c.vocab_size, True, "layer",
        (
            Norm("attn_norm", d, bias, layers=tuple(range(1, layers))),  # the embeddings' own stands before block 0
            *norms(d, bias, ("mlp_norm",), ("embeddings.norm", "final_norm")),
        ),
        "layers", "model",
        (
            Matrix("attn.Wqkv", d, 3 * d, bool(c.attention_bias)),
            Matrix("attn.Wo", d, d, bool(c.attention_bias)),
            Matrix("mlp.Wi", d, 2 * ff, bool(c.mlp_bias)),
            Matrix("mlp.Wo", ff, d, bool(c.mlp_bias)),
            Matrix("embeddings.tok_embeddings", c.vocab_size, d, False, False, "embedding"),
        ),
        tied=bool(c.tie_word_embeddings), pre_norm=True, activation=c.hidden_activation,
        dropout=c.mlp_dropout, attention_dropout=c.attention_dropout, encoder=True, before=("embeddings.norm",),
    )  # fmt: skip
