r"""What a description of a model says: its matrices, its norms, and where its blocks are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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
    kind: str = "linear"  # "linear", "conv1d" (GPT-2's linear layer), "embedding" or "convolution"
    layers: tuple[int, ...] | None = None  # numbers of the blocks that have it; None: all
    window: int = 1  # of a convolution: tokens that one output sees

    @property
    def size(self) -> int:
        r"""Number of parameters of one copy, bias included."""
        return self.d_in * self.d_out * self.window + (self.d_out if self.bias else 0)


@dataclass(frozen=True)
class Norm:
    r"""One norm, or the same one in every block; `name`, `per_layer` and `layers` as in `Matrix`."""

    name: str
    d: int
    bias: bool
    per_layer: bool = True
    layers: tuple[int, ...] | None = None
    of_tokens: bool = True  # reads something of each token; not so what normalises DeBERTa's table of positions

    @property
    def sizes(self) -> list[int]:
        r"""Numbers of elements of its tensors: weight, bias."""
        return [self.d] * (2 if self.bias else 1)


@dataclass(frozen=True)
class Architecture:
    r"""Shapes of a transformer. Sizes in numbers of elements, not bytes."""

    family: str  # one of `families.FAMILIES`
    d_model: int
    n_layers: int  # blocks, of encoder and decoder together
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab: int
    gated: bool  # SwiGLU: two up projections
    norm: str  # "layer" (nn.LayerNorm) or "rms" (weight only)
    all_norms: tuple[Norm, ...]
    block: str  # where the (first) list of blocks lies in the body, e.g. "encoder.layer"
    prefix: str  # where the body lies in a model with a task head, e.g. "bert"; "" where that is no module of its own
    matrices: tuple[Matrix, ...]
    tied: bool  # the output layer shares the input embedding
    pre_norm: bool  # norm before attention and feed-forward (GPT-2, OPT, Llama), not after the residual (BERT)
    activation: str  # transformers' name of the feed-forward activation
    dropout: float  # of the hidden states, in training
    attention_dropout: float  # of the attention weights, in training
    encoder: bool  # reads in both directions: it classifies sequences and has no causal language model
    before: tuple[str, ...] = ()  # of the norms outside the blocks those that come before them
    decoder: tuple[str, int] | None = None  # T5: where its second list of blocks lies, and how many they are

    @property
    def norms(self) -> tuple[str, ...]:
        r"""Names of the norms inside a block, each once."""
        return tuple(n.name for n in self.all_norms if n.per_layer)

    @property
    def outer_norms(self) -> tuple[str, ...]:
        r"""Paths in the body of the norms outside the blocks."""
        return tuple(n.name for n in self.all_norms if not n.per_layer)

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
        r"""Width of the word embedding: d_model, but for OPT-350M and ELECTRA-small, which project up."""
        return next(m.d_out for m in self.matrices if m.kind == "embedding" and not m.per_layer)

    @property
    def feedforward(self) -> tuple[Matrix, ...]:
        r"""The matrices of a block's feed-forward, in the order in which they are used."""
        return tuple(m for m in self.matrices if m.per_layer and "att" not in m.name.lower())

    @property
    def tables(self) -> tuple[str, ...]:
        r"""Paths in the body of the embeddings before the blocks."""
        return tuple(m.name for m in self.matrices if m.kind == "embedding" and not m.per_layer)

    @property
    def normed_heads(self) -> bool:
        r"""Whether queries and keys are normalised, head by head (Qwen3, Gemma 3)."""
        return any(name.endswith("q_norm") for name in self.norms)

    def layers_of(self, part: Matrix | Norm) -> tuple[int, ...]:
        r"""Numbers of the blocks that have `part`; none where it is outside of them."""
        if not part.per_layer:
            return ()
        return tuple(range(self.n_layers)) if part.layers is None else part.layers

    def copies(self, part: Matrix | Norm) -> int:
        r"""How often `part` occurs in the model."""
        return len(self.layers_of(part)) if part.per_layer else 1

    def path(self, part: Matrix | Norm, copy: int = 0) -> str:
        r"""Path of `part` inside the body of the model; of one in several blocks, that of copy number `copy`."""
        if not part.per_layer:
            return part.name
        return f"{self.block_path(self.layers_of(part)[copy])}.{part.name}"

    def paths(self, part: Matrix | Norm) -> list[str]:
        r"""Paths of all copies of `part` inside the body."""
        return [self.path(part, copy) for copy in range(self.copies(part))]

    def block_path(self, layer: int) -> str:
        r"""Path of block `layer` inside the body; T5's decoder goes on counting where its encoder ends."""
        if self.decoder is None or layer < self.n_layers - self.decoder[1]:
            return f"{self.block}.{layer}"
        return f"{self.decoder[0]}.{layer - (self.n_layers - self.decoder[1])}"

    def block_of(self, path: str) -> int | None:
        r"""The number of the block that holds `path`, a path in the body; None outside of the blocks."""
        lists = [(self.block, 0), *([(self.decoder[0], self.n_layers - self.decoder[1])] if self.decoder else [])]
        for start, first in lists:
            if path.startswith(f"{start}."):
                return first + int(path[len(start) + 1 :].split(".")[0])
        return None

    def in_model(self, path: str) -> str:
        r"""`path`, one in the body, in a model with a task head."""
        return f"{self.prefix}.{path}" if self.prefix else path


def norms(d: int, bias: bool, inside: Iterable[str], outside: Iterable[str] = ()) -> tuple[Norm, ...]:
    r"""Norms of width `d` inside every block and outside of the blocks."""
    return (*(Norm(n, d, bias) for n in inside), *(Norm(n, d, bias, per_layer=False) for n in outside))
