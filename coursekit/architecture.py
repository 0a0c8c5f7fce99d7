r"""One description of the model families the course knows, read from a config alone: no weights, no modules.

Everything that is counted or predicted (parameters, memory, LoRA shapes) starts from these shapes. A test builds
each family on the meta device and checks that the modules found there are exactly the ones described here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coursekit.errors import CourseError


@dataclass(frozen=True)
class Matrix:
    r"""One weight matrix of the model, or the same one in every block.

    `name` is its path inside a block (`per_layer=True`) or inside the body of the model (`per_layer=False`).
    `d_in`, `d_out` are the sizes of $y = xW^\top + b$ whatever the storage (GPT-2's Conv1D stores $W^\top$);
    for an embedding `d_in` is the vocabulary and `d_out` the width.
    """

    name: str
    d_in: int
    d_out: int
    bias: bool
    per_layer: bool = True
    kind: str = "linear"  # "linear", "conv1d" or "embedding"

    @property
    def size(self) -> int:
        r"""Number of parameters of one copy, bias included."""
        return self.d_in * self.d_out + (self.d_out if self.bias else 0)


@dataclass(frozen=True)
class Architecture:
    r"""Shapes of a transformer. Sizes in numbers of elements, not bytes."""

    family: str  # bert, roberta, gpt2, opt or llama
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab: int
    gated: bool  # SwiGLU: two up projections
    norm: str  # "layer" (weight and bias) or "rms" (weight only)
    norms: tuple[str, ...]  # paths inside a block
    outer_norms: tuple[str, ...]  # paths inside the body
    block: str  # where the list of blocks lies in the body, e.g. "encoder.layer"
    prefix: str  # where the body lies in a model with a task head, e.g. "bert" or "model"
    matrices: tuple[Matrix, ...]
    tied: bool  # the output layer shares the input embedding
    pre_norm: (
        bool  # norm before attention and feed-forward (GPT-2, OPT, Llama), not after the residual (BERT)
    )
    activation: str  # transformers' name of the feed-forward activation
    dropout: float  # of the hidden states, in training
    attention_dropout: float  # of the attention weights, in training

    @property
    def encoder(self) -> bool:
        r"""Whether the family reads in both directions: it classifies sequences and has no causal language model."""
        return self.family in ("bert", "roberta")

    @property
    def d_kv(self) -> int:
        r"""Width of keys and of values: KV heads x head size, smaller than d_model under GQA."""
        return self.n_kv_heads * self.head_dim

    @property
    def d_q(self) -> int:
        r"""Width of the queries: heads x head size."""
        return self.n_heads * self.head_dim

    @property
    def d_embed(self) -> int:
        r"""Width of the word embedding: d_model, but for OPT-350M, which projects up from 512."""
        return next(m.d_out for m in self.matrices if m.kind == "embedding")

    @property
    def feedforward(self) -> tuple[Matrix, ...]:
        r"""The matrices of a block's feed-forward, in the order in which they are used."""
        return tuple(m for m in self.matrices if m.per_layer and "att" not in m.name)

    def copies(self, matrix: Matrix) -> int:
        r"""How often `matrix` occurs in the model."""
        return self.n_layers if matrix.per_layer else 1

    def path(self, matrix: Matrix, layer: int = 0) -> str:
        r"""Path of `matrix` inside the body of the model, in block `layer` where it belongs to a block."""
        return f"{self.block}.{layer}.{matrix.name}" if matrix.per_layer else matrix.name


def describe(config: Any) -> Architecture:
    r"""The shapes of the model that `config` (a transformers config) describes.

    Raises CourseError for a family the course does not know.
    """
    kind = getattr(config, "model_type", None)
    for family, (types, build) in _FAMILIES.items():
        if kind in types:
            return build(family, config)
    known = ", ".join(t for types, _ in _FAMILIES.values() for t in types)
    raise CourseError(f"model type {kind!r} is not described in coursekit.architecture; described: {known}")


def _bert(family: str, c: Any) -> Architecture:
    d, ff = c.hidden_size, c.intermediate_size
    attention = [
        Matrix(f"attention.{n}", d, d, True) for n in ("self.query", "self.key", "self.value", "output.dense")
    ]
    positions = c.max_position_embeddings
    return Architecture(
        family, d, c.num_hidden_layers, c.num_attention_heads, c.num_attention_heads, d // c.num_attention_heads, ff,
        c.vocab_size, False, "layer", ("attention.output.LayerNorm", "output.LayerNorm"), ("embeddings.LayerNorm",),
        "encoder.layer", "bert" if family == "bert" else "roberta",
        (
            *attention,
            Matrix("intermediate.dense", d, ff, True),
            Matrix("output.dense", ff, d, True),
            Matrix("embeddings.word_embeddings", c.vocab_size, d, False, False, "embedding"),
            Matrix("embeddings.position_embeddings", positions, d, False, False, "embedding"),
            Matrix("embeddings.token_type_embeddings", c.type_vocab_size, d, False, False, "embedding"),
            # RoBERTa's classifier reads the first token itself and has no pooler.
            *([Matrix("pooler.dense", d, d, True, False)] if family == "bert" else []),
        ),
        tied=bool(getattr(c, "tie_word_embeddings", True)), pre_norm=False, activation=c.hidden_act,
        dropout=c.hidden_dropout_prob, attention_dropout=c.attention_probs_dropout_prob,
    )  # fmt: skip


def _gpt2(family: str, c: Any) -> Architecture:
    d = c.n_embd
    ff = c.n_inner or 4 * d
    return Architecture(
        family, d, c.n_layer, c.n_head, c.n_head, d // c.n_head, ff, c.vocab_size, False, "layer",
        ("ln_1", "ln_2"), ("ln_f",), "h", "transformer",
        (
            Matrix("attn.c_attn", d, 3 * d, True, kind="conv1d"),  # q, k and v side by side
            Matrix("attn.c_proj", d, d, True, kind="conv1d"),
            Matrix("mlp.c_fc", d, ff, True, kind="conv1d"),
            Matrix("mlp.c_proj", ff, d, True, kind="conv1d"),
            Matrix("wte", c.vocab_size, d, False, False, "embedding"),
            Matrix("wpe", c.n_positions, d, False, False, "embedding"),
        ),
        tied=bool(c.tie_word_embeddings), pre_norm=True, activation=c.activation_function,
        dropout=c.resid_pdrop, attention_dropout=c.attn_pdrop,
    )  # fmt: skip


def _opt(family: str, c: Any) -> Architecture:
    d, ff, bias = c.hidden_size, c.ffn_dim, c.enable_bias
    narrow = c.word_embed_proj_dim != d  # OPT-350M embeds in 512 and projects to 1024
    return Architecture(
        family, d, c.num_hidden_layers, c.num_attention_heads, c.num_attention_heads, d // c.num_attention_heads, ff,
        c.vocab_size, False, "layer", ("self_attn_layer_norm", "final_layer_norm"),
        ("decoder.final_layer_norm",) if c.do_layer_norm_before and not c._remove_final_layer_norm else (),
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
        dropout=c.dropout, attention_dropout=c.attention_dropout,
    )  # fmt: skip


def _llama(family: str, c: Any) -> Architecture:
    d, ff = c.hidden_size, c.intermediate_size
    head_dim = getattr(c, "head_dim", None) or d // c.num_attention_heads
    d_q, d_kv = c.num_attention_heads * head_dim, c.num_key_value_heads * head_dim
    qkv = True if c.model_type == "qwen2" else bool(getattr(c, "attention_bias", False))
    out = False if c.model_type == "qwen2" else qkv
    mlp = bool(getattr(c, "mlp_bias", False))
    return Architecture(
        family, d, c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads, head_dim, ff, c.vocab_size,
        True, "rms", ("input_layernorm", "post_attention_layernorm"), ("norm",), "layers", "model",
        (
            Matrix("self_attn.q_proj", d, d_q, qkv),
            Matrix("self_attn.k_proj", d, d_kv, qkv),
            Matrix("self_attn.v_proj", d, d_kv, qkv),
            Matrix("self_attn.o_proj", d_q, d, out),
            Matrix("mlp.gate_proj", d, ff, mlp),
            Matrix("mlp.up_proj", d, ff, mlp),
            Matrix("mlp.down_proj", ff, d, mlp),
            Matrix("embed_tokens", c.vocab_size, d, False, False, "embedding"),
        ),
        tied=bool(c.tie_word_embeddings), pre_norm=True, activation=c.hidden_act,
        dropout=0.0, attention_dropout=float(getattr(c, "attention_dropout", 0.0) or 0.0),
    )  # fmt: skip


_FAMILIES = {
    "bert": (("bert",), _bert),
    "roberta": (("roberta", "xlm-roberta"), _bert),
    "gpt2": (("gpt2",), _gpt2),
    "opt": (("opt",), _opt),
    "llama": (("llama", "mistral", "qwen2"), _llama),
}
