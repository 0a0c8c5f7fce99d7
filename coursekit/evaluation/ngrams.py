r"""How well counting alone predicts text: the entropy of single tokens, and a table of pairs.

All in nats per token, like a model's loss. A model that has learned nothing has a loss of $\ln V$; one that knows
how frequent each token is, $H_1$ (Shannon 1951, "Prediction and entropy of printed English", equation 1).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coursekit.errors import CourseError

#: Pairs of more tokens than this are too many to count in a table.
_LARGEST = 16_384


def pairs(stream: Int[Tensor, " n"], vocab: int) -> Float[Tensor, "vocab vocab"]:
    r"""How often token j follows token i in `stream`, at (i, j)."""
    _check(stream, vocab)
    flat = torch.bincount(stream[:-1] * vocab + stream[1:], minlength=vocab * vocab)
    return flat.view(vocab, vocab).double()


def unigram_entropy(stream: Int[Tensor, " n"], vocab: int) -> float:
    r"""$H_1 = -\sum_i p_i \ln p_i$ with $p_i$ the share of token i in `stream`."""
    _check(stream, vocab)
    counts = torch.bincount(stream, minlength=vocab).double()
    p = counts[counts > 0] / counts.sum()
    return -(p * p.log()).sum().item()


class Bigram:
    r"""A table of pairs as a language model, for text that it has not counted.

    $P(j \mid i) = \lambda\, p_{j|i} + (1 - \lambda)\, p_j$ (Jelinek & Mercer 1980): where a pair was never seen, the
    frequency of the token stands in. Single tokens have one count more than they were seen, so none is impossible.
    weight: $\lambda$.
    """

    def __init__(self, stream: Int[Tensor, " n"], vocab: int, weight: float = 0.9) -> None:
        if not 0 <= weight < 1:
            raise CourseError(f"weight={weight}: the share of the pairs, from 0 to below 1")
        counts = pairs(stream, vocab)
        single = torch.bincount(stream, minlength=vocab).double() + 1
        rows = counts.sum(1, keepdim=True)
        self.single = single / single.sum()
        # Behind a token that nothing was seen to follow, single tokens are all there is.
        self.table = torch.where(
            rows > 0, weight * counts / rows.clamp(min=1) + (1 - weight) * self.single, self.single
        )

    def loss(self, text: Int[Tensor, "*blocks n"]) -> float:
        r"""Mean $-\ln P$ of the tokens of a text, or of each of its blocks, that have one before them."""
        _check(text.flatten(), len(self.single))
        return -self.table[text[..., :-1], text[..., 1:]].log().mean().item()


def _check(stream: Tensor, vocab: int) -> None:
    if vocab > _LARGEST:
        raise CourseError(
            f"vocab={vocab}: a table of all pairs would take {16 * vocab**2 / 1e9:.0f} GB; take a vocabulary of up to "
            f"{_LARGEST:,}"
        )
    if len(stream) < 2:
        raise CourseError("a stream of fewer than two tokens has nothing to count")
    if int(stream.max()) >= vocab or int(stream.min()) < 0:
        raise CourseError(f"a token is outside of 0 … {vocab - 1}: give the vocabulary of the stream's tokenizer")
