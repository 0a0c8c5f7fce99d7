r"""The exercises of notebook 09_hybrid."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.checks.core import Exercise, register
from coursekit.checks.draw import Draw

# hybrid-share ---------------------------------------------------------------------------------------------


def _weights(q: Tensor, k: Tensor, p_k: Tensor, scale: float | None = None, over: int = -1) -> Tensor:
    scores = q @ torch.cat([p_k, k]).T * (q.shape[1] ** -0.5 if scale is None else scale)
    return scores.softmax(over)[:, : len(p_k)]


def share(q: Tensor, k: Tensor, p_k: Tensor) -> Tensor:
    r"""For each query, the attention weights on the prefix, added up: (seq,)."""
    return _weights(q, k, p_k).sum(-1)


def _odds(q: Tensor, k: Tensor, p_k: Tensor) -> Tensor:
    root = math.sqrt(q.shape[1])
    return (q @ p_k.T / root).exp().sum(-1) / (q @ k.T / root).exp().sum(-1)


def _secret_share(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    d, seq, n = draw.whole(3, 7), draw.whole(4, 7), draw.whole(2, 4)
    return tuple(2 * draw.normal(rows, d) for rows in (seq, seq, n))


SHARE = register(
    Exercise(
        id="hybrid-share",
        points=2,
        difficulty=3,
        minutes=8,
        hints=(
            "torch.cat([p_k, k]) are all keys. The scores are q @ keys.T / sqrt(d_h), and d_h is q.shape[1].",
            "scores.softmax(-1)[:, :n] are the weights on the prefix, (seq, n). A share is their sum.",
        ),
        secret=_secret_share,
        reference=share,
        mutants={
            "this is what the text keeps; asked is what goes to the prefix": (
                lambda q, k, p_k: 1 - share(q, k, p_k)
            ),
            "the scores are not divided by the root of d_h": (
                lambda q, k, p_k: _weights(q, k, p_k, scale=1.0).sum(-1)
            ),
            "this is the mean weight of one virtual token; the share is their sum": (
                lambda q, k, p_k: _weights(q, k, p_k).mean(-1)
            ),
            "this is the weight of one virtual token, the strongest; the share adds all n": (
                lambda q, k, p_k: _weights(q, k, p_k).max(-1).values
            ),
            "the softmax runs over the queries; the weights of each query over the keys add up to 1, so dim=-1": (
                lambda q, k, p_k: _weights(q, k, p_k, over=0).sum(-1)
            ),
            "this compares prefix with text, and can be above 1; a share is the prefix's part of both together": (
                _odds
            ),
            "the first n columns belong to the text here: the prefix stands last in these keys": (
                lambda q, k, p_k: _weights(q, p_k, k)[:, : len(p_k)].sum(-1)
            ),
            "a softmax over the prefix alone always adds up to 1; prefix and text share one softmax": (
                lambda q, k, p_k: (q @ p_k.T).softmax(-1).sum(-1)
            ),
            "this is the share if all keys got the same weight; each query weighs them by its scores": (
                lambda q, k, p_k: torch.full((len(q),), len(p_k) / (len(p_k) + len(k)), dtype=q.dtype)
            ),
            "this is one number, the share if all keys got the same weight; each query has a share of its own": (
                lambda q, k, p_k: len(p_k) / (len(p_k) + len(k))
            ),
        },
        tolerance=1e-8,
    )
)


# hybrid-gate ----------------------------------------------------------------------------------------------


def _over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(1) / mask.sum(1)


def gate(x: Tensor, w: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    r"""sigmoid(w . x + b), averaged over the real tokens of each sentence: (batch,)."""
    return _over_tokens((x @ w + b).sigmoid(), mask)


def _secret_gate(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d, seq = draw.whole(3, 7), draw.whole(5, 8)
    lengths = torch.tensor([[seq], [draw.whole(2, seq - 1)], [draw.whole(2, seq - 1)]])
    mask = (torch.arange(seq) < lengths).long()
    mask[2] = mask[2].flip(0)
    order = draw.order(3)
    return draw.normal(3, seq, d), draw.normal(d), draw.normal(), mask[order]


GATE = register(
    Exercise(
        id="hybrid-gate",
        points=2,
        difficulty=2,
        minutes=7,
        hints=(
            "Average after the sigmoid, and over the tokens of the same sentence: dim 1.",
            "(values * mask).sum(1) / mask.sum(1) is the mean over the places where the mask is 1.",
        ),
        secret=_secret_gate,
        reference=gate,
        mutants={
            "the padding is averaged in; then a gate would depend on how long the other sentences of the batch are": (
                lambda x, w, b, mask: (x @ w + b).sigmoid().mean(1)
            ),
            "the average is taken before the sigmoid; each token has a gate of its own first": (
                lambda x, w, b, mask: _over_tokens(x @ w + b, mask).sigmoid()
            ),
            "there is no sigmoid: a gate lies between 0, closed, and 1, open": (
                lambda x, w, b, mask: _over_tokens(x @ w + b, mask)
            ),
            "tanh goes down to -1; this gate is a sigmoid, from 0 to 1": (
                lambda x, w, b, mask: _over_tokens((x @ w + b).tanh(), mask)
            ),
            "a softmax makes the tokens compete, and their gates add up to 1; each token has a sigmoid here": (
                lambda x, w, b, mask: _over_tokens((x @ w + b).softmax(1), mask)
            ),
            "the gates are added up; divide by the number of real tokens": (
                lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).sum(1)
            ),
            "the sum leaves the padding out, but the division counts it: divide by mask.sum(1)": (
                lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).mean(1)
            ),
            "each sum is divided by the tokens of the whole batch; a sentence has its own number, mask.sum(1)": (
                lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).sum(1) / mask.sum()
            ),
            "padding can also stand in front: the real tokens are where the mask is 1, not the first T places": (
                lambda x, w, b, mask: _over_tokens((x @ w + b).sigmoid(), mask.sort(descending=True).values)
            ),
            "a padded place whose vector is 0 still answers sigmoid(b); take it out of the average": (
                lambda x, w, b, mask: ((x * mask[..., None]) @ w + b).sigmoid().mean(1)
            ),
            "there is one gate for each token; average them to one for each sentence": (
                lambda x, w, b, mask: (x @ w + b).sigmoid()
            ),
            "this is one gate for the whole batch; each sentence has its own": (
                lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).sum() / mask.sum()
            ),
            "the bias is missing: w . x + b": lambda x, w, b, mask: _over_tokens((x @ w).sigmoid(), mask),
            "this reads the first token only; the gate averages over all real ones": (
                lambda x, w, b, mask: (x[:, 0] @ w + b).sigmoid()
            ),
            "this is how far the gate is closed; mind the sign of what goes into the sigmoid": (
                lambda x, w, b, mask: 1 - gate(x, w, b, mask)
            ),
        },
        tolerance=1e-8,
    )
)


# hybrid-kronecker -----------------------------------------------------------------------------------------


Factors = tuple[Tensor, Tensor, Tensor, Tensor]


def kronecker_product(x: Tensor, A: Tensor, s: Tensor, t: Tensor) -> Tensor:
    r"""(sum_i A_i (x) s_i t_i^T) x, from the factors: (batch, seq, d_out)."""
    pieces = x.unflatten(-1, (len(A), -1))  # (batch, seq, n, d_in / n)
    seen = torch.einsum("...qe,ie->...iq", pieces, t)
    mixed = torch.einsum("ipq,...iq->...ip", A, seen)
    return torch.einsum("...ip,ie->...pe", mixed, s).flatten(-2)


def kronecker(x: Tensor, A: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, bool]:
    r"""What the stub's `hybrid_kronecker` finds of a right layer: the product, and that W was never there."""
    return kronecker_product(x, A, s, t), True


class _Layer:
    r"""What a notebook multiplies with, until a student's class passes."""

    def __init__(self, A: Tensor, s: Tensor, t: Tensor):
        self.factors = A, s, t

    def __call__(self, x: Tensor) -> Tensor:
        return kronecker_product(x, *self.factors)


def _whole(A: Tensor, s: Tensor, t: Tensor) -> Tensor:
    return sum(torch.kron(A_i, torch.outer(s_i, t_i)) for A_i, s_i, t_i in zip(A, s, t, strict=True))


def _outer_first(x: Tensor, A: Tensor, s: Tensor, t: Tensor) -> Tensor:
    W = sum(torch.kron(torch.outer(s_i, t_i), A_i) for A_i, s_i, t_i in zip(A, s, t, strict=True))
    return x @ W.T


def _interleaved(x: Tensor, n: int) -> Tensor:
    return x.unflatten(-1, (-1, n)).mT.flatten(-2)


def _first(A: Tensor) -> Tensor:
    return (torch.arange(len(A)) == 0).to(A.dtype)[:, None, None]


#: What is wrong -> a product with that mistake. Each is made with and without W.
_WRONG_PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "the Kronecker product is the other way round: A_i says how blocks are mixed, s_i t_iᵀ fills a block": _outer_first,
    "A_i is transposed: its rows p belong to the outputs, its columns q to the inputs": (
        lambda x, A, s, t: kronecker_product(x, A.mT, s, t)
    ),
    "s and t are swapped: t_i meets the input, s_i makes the output": lambda x, A, s, t: kronecker_product(x, A, t, s),
    "this is x W; the layer is W x, so for a batch of rows it is x Wᵀ": (
        lambda x, A, s, t: kronecker_product(x, A.mT, t, s)
    ),
    "only the first term is there; W is the sum over all n": (
        lambda x, A, s, t: kronecker_product(x, A * _first(A), s, t)
    ),
    "the n terms are averaged; they are added": lambda x, A, s, t: kronecker_product(x, A, s, t) / len(A),
    "the sum over i is taken in each factor apart; a sum of products is not the product of the sums": (
        lambda x, A, s, t: x @ torch.kron(A.sum(0), torch.einsum("ip,iq->pq", s, t)).T
    ),
    "the pieces of x hold every n-th number; a piece is d_in / n numbers that follow one another": (
        lambda x, A, s, t: kronecker_product(_interleaved(x, len(A)), A, s, t)
    ),
    "the pieces of the output are interleaved; block p fills d_out / n places that follow one another": (
        lambda x, A, s, t: kronecker_product(x, A, s, t).unflatten(-1, (len(A), -1)).mT.flatten(-2)
    ),
}  # fmt: skip
#: What is said of a tensor as large as W.
BUILT = "a tensor as large as W was made; multiply by one factor after the other"


def _layer(wrong: Callable[..., Tensor], small: bool) -> Callable[..., tuple[Tensor, bool]]:
    return lambda *factors: (wrong(*factors), small)


def _secret_kronecker(draw: Draw) -> Factors:
    n, m = draw.whole(2, 3), draw.whole(13, 15)
    out = m if draw.kind == 0 else m + draw.whole(1, 3)
    return tuple(draw.normal(*shape) for shape in ((2, 2, n * m), (n, n, n), (n, out), (n, m)))


KRONECKER = register(
    Exercise(
        id="hybrid-kronecker",
        points=4,
        difficulty=4,
        minutes=20,
        hints=(
            "Cut x into n pieces x_1 … x_n. Block row p of A_i ⊗ s_i t_iᵀ gives sum_q A_i[p, q] s_i (t_i · x_q).",
            "x.unflatten(-1, (n, -1)) makes the pieces; torch.einsum('...qe,ie->...iq', pieces, t) is the first step. "
            "Loops over i, p and q do as well.",
        ),
        secret=_secret_kronecker,
        reference=kronecker,
        part=_Layer,
        mutants={
            BUILT: _layer(kronecker_product, small=False),
            **{message: _layer(wrong, small=True) for message, wrong in _WRONG_PRODUCTS.items()},
            **{
                f"{message}. And {BUILT}": _layer(wrong, small=False)
                for message, wrong in _WRONG_PRODUCTS.items()
            },
            "this is the matrix W itself; asked is W x, for every token, and without W": (
                lambda x, A, s, t: (_whole(A, s, t), False)
            ),
        },
        tolerance=1e-8,
        kinds=2,
    )
)
