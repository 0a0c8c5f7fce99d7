r"""The families that are described, by the `model_type` of their configs.

BERT and its relatives normalise after the residual: RoBERTa, ELECTRA, DistilBERT, DeBERTa v2 and v3. Decoders with
LayerNorm are GPT-2, OPT, and GPT-NeoX (Pythia).

Decoders with RMSNorm, rotary positions and a gated feed-forward: Llama and those made after it.

            norms of a block   q, k norm   matrices
Llama       2                  no          q, k, v, o; gate, up, down       Mistral, Qwen2, SmolLM3 alike
Qwen3       2                  yes         the same
Gemma 2     4                  no          the same
Gemma 3     4                  yes         the same
Phi-3       2                  no          qkv, o; gate and up in one, down

T5 and FLAN-T5: an encoder and a decoder, each a list of blocks. The decoder's are counted after the encoder's.

A block of the encoder is self-attention and feed-forward, one of the decoder has cross-attention between them, so the
feed-forward is `layer.1` in the one and `layer.2` in the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coursekit.architecture.shapes import Architecture, Matrix, Norm, norms
from coursekit.errors import CourseError

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
            Matrix("self_attn.qkv_proj", d, d_q + 2 * d_kv, False), Matrix("self_attn.o_proj", d_q, d, False),
            Matrix("mlp.gate_up_proj", d, 2 * ff, False), Matrix("mlp.down_proj", ff, d, False),
        ]  # fmt: skip
    qkv = True if c.model_type == "qwen2" else bool(getattr(c, "attention_bias", False))
    out = False if c.model_type == "qwen2" else qkv
    mlp = bool(getattr(c, "mlp_bias", False))
    return [
        Matrix("self_attn.q_proj", d, d_q, qkv), Matrix("self_attn.k_proj", d, d_kv, qkv),
        Matrix("self_attn.v_proj", d, d_kv, qkv), Matrix("self_attn.o_proj", d_q, d, out),
        Matrix("mlp.gate_proj", d, ff, mlp), Matrix("mlp.up_proj", d, ff, mlp), Matrix("mlp.down_proj", ff, d, mlp),
    ]  # fmt: skip


def t5(family: str, c: Any) -> Architecture:
    r"""T5, with one up projection, and its later versions with a gate.

    The later ones' checkpoints have an output layer of their own as well; transformers' config says that it is tied.
    """
    d, heads = c.d_model, c.num_heads
    encoder = tuple(range(c.num_layers))
    decoder = tuple(range(c.num_layers, c.num_layers + c.num_decoder_layers))
    buckets = c.relative_attention_num_buckets
    return Architecture(
        family, d, len(encoder) + len(decoder), heads, heads, c.d_kv, c.d_ff, c.vocab_size, bool(c.is_gated_act), "rms",
        (
            *norms(d, False, ("layer.0.layer_norm", "layer.1.layer_norm")),
            Norm("layer.2.layer_norm", d, False, layers=decoder),
            *norms(d, False, (), ("encoder.final_layer_norm", "decoder.final_layer_norm")),
        ),
        "encoder.block", "",
        (
            *_attention("layer.0.SelfAttention", d, heads * c.d_kv, None),
            *_attention("layer.1.EncDecAttention", d, heads * c.d_kv, decoder),
            *_feed_forward("layer.1.DenseReluDense", c, encoder),
            *_feed_forward("layer.2.DenseReluDense", c, decoder),
            Matrix("shared", c.vocab_size, d, False, False, "embedding"),
            # One table of relative positions for each list of blocks, in its first one.
            Matrix("layer.0.SelfAttention.relative_attention_bias", buckets, heads, False, True, "embedding",
                   layers=(0, len(encoder))),
        ),
        tied=bool(c.tie_word_embeddings), pre_norm=True, activation=c.dense_act_fn,
        dropout=c.dropout_rate, attention_dropout=c.dropout_rate, encoder=False,
        decoder=("decoder.block", len(decoder)),
    )  # fmt: skip


def _attention(name: str, d: int, inner: int, layers: tuple[int, ...] | None) -> list[Matrix]:
    sizes = {"q": (d, inner), "k": (d, inner), "v": (d, inner), "o": (inner, d)}
    return [Matrix(f"{name}.{n}", d_in, d_out, False, layers=layers) for n, (d_in, d_out) in sizes.items()]


def _feed_forward(name: str, c: Any, layers: tuple[int, ...]) -> list[Matrix]:
    up = ("wi_0", "wi_1") if c.is_gated_act else ("wi",)
    return [
        *[Matrix(f"{name}.{n}", c.d_model, c.d_ff, False, layers=layers) for n in up],
        Matrix(f"{name}.wo", c.d_ff, c.d_model, False, layers=layers),
    ]


#: Family -> (the model types that belong to it, what describes them).
FAMILIES: dict[str, tuple[tuple[str, ...], Callable[[str, Any], Architecture]]] = {
    "bert": (("bert",), bert),
    "roberta": (("roberta", "xlm-roberta"), bert),
    "electra": (("electra",), bert),
    "distilbert": (("distilbert",), distilbert),
    "deberta-v2": (("deberta-v2",), deberta),
    "modernbert": (("modernbert",), modernbert),
    "gpt2": (("gpt2",), gpt2),
    "opt": (("opt",), opt),
    "gpt_neox": (("gpt_neox",), gpt_neox),
    "llama": (("llama", "mistral", "qwen2", "smollm3"), llama),
    "qwen3": (("qwen3",), llama),
    "gemma2": (("gemma2",), llama),
    "gemma3": (("gemma3_text",), llama),
    "phi3": (("phi3",), llama),
    "t5": (("t5",), t5),
}


def describe(config: Any) -> Architecture:
    r"""The shapes of the model that `config` (a transformers config) describes.

    Raises CourseError for a family the course does not know.
    """
    kind = getattr(config, "model_type", None)
    for family, (types, build) in FAMILIES.items():
        if kind in types:
            return build(family, config)
    known = ", ".join(t for types, _ in FAMILIES.values() for t in types)
    raise CourseError(f"model type {kind!r} is not described in coursekit.architecture; described: {known}")
