r"""T5 and FLAN-T5: an encoder and a decoder, each a list of blocks. The decoder's are counted after the encoder's.

A block of the encoder is self-attention and feed-forward, one of the decoder has cross-attention between them, so the
feed-forward is `layer.1` in the one and `layer.2` in the other.
"""

from __future__ import annotations

from typing import Any

from coursekit.architecture.shapes import Architecture, Matrix, Norm, norms


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
