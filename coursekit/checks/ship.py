r"""The exercises of notebook 12_ship_it: how far two models are apart, and a sum of adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coursekit.checks.compare import Comparison
from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw

# ship-difference ------------------------------------------------------------------------------------------


def difference(one: Tensor, other: Tensor, mask: Tensor) -> tuple[float, float]:
    r"""KL divergence of `other` from `one`, in nats: the mean over all tokens that count, and over each text's last.

    one, other: logits (batch, seq, vocabulary); mask (batch, seq) is 1 where a token counts, 0 for padding behind it.
    """
    return _found()(one, other, mask)


def _of_tokens(one: Tensor, other: Tensor) -> Tensor:
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def _last(tokens: Tensor, mask: Tensor, before: int = 1) -> Tensor:
    return tokens[range(len(mask)), mask.sum(1) - before]


def _secret_difference(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    # What moves all logits of a token changes no probability; padding is further apart than anything else.
    batch, seq, vocabulary = draw.whole(2, 3), draw.whole(4, 5), draw.whole(6, 8)
    mask = torch.ones(batch, seq, dtype=torch.long)
    mask[0, draw.whole(2, seq - 1) :] = 0
    one = 2 * draw.normal(batch, seq, vocabulary)
    gap = draw.normal(batch, seq, 1) + 0.6 * draw.normal(batch, seq, vocabulary)
    return one, one + gap * (2.0 - mask)[..., None], mask


Measure = Callable[[Tensor, Tensor], Tensor]


def _found(
    tokens: Measure = _of_tokens,
    first: Measure = lambda tokens, mask: tokens[mask.bool()].mean(),
    second: Measure = lambda tokens, mask: _last(tokens, mask).mean(),
) -> Callable[..., tuple[float, float]]:
    r"""The right answer but for the divergence of each token, or for a number made of these and the mask."""

    def answer(one: Tensor, other: Tensor, mask: Tensor) -> tuple[float, float]:
        each = tokens(one, other)
        return first(each, mask).item(), second(each, mask).item()

    return answer


DIFFERENCE = Exercise(
    id="ship-difference", points=3, difficulty=2, minutes=12,
    secret=_secret_difference, reference=difference,
    tolerance=1e-4,  # of a single token, in fp32
    mutants={
        "these are logits, which may all move together without changing any probability":
            _found(lambda one, other: (one.softmax(-1) * (one - other)).sum(-1)),
        "this is the divergence the other way round: the probabilities of `one` weigh":
            _found(lambda one, other: _of_tokens(other, one)),
        "the divergence of a token is a sum over the vocabulary; here it is a mean":
            _found(lambda one, other: _of_tokens(one, other) / one.shape[-1]),
        "this is the mean of all differences; words count by their probability in `one`":
            _found(lambda one, other: (one.log_softmax(-1) - other.log_softmax(-1)).abs().mean(-1)),
        "the padding counts, which nobody reads":
            lambda one, other, mask: difference(one, other, torch.ones_like(mask)),
        "the padding counts in the first number, and nobody reads it": _found(first=lambda tokens, mask: tokens.mean()),
        "the sum leaves the padding out, but is divided by all places: divide by the tokens that count":
            _found(first=lambda tokens, mask: (tokens * mask).mean()),
        "these are the divergences of all tokens together; their means are asked": _found(
            first=lambda tokens, mask: tokens[mask.bool()].sum(), second=lambda tokens, mask: _last(tokens, mask).sum()
        ),
        "the first number is the divergences of all tokens together; their mean is asked":
            _found(first=lambda tokens, mask: (tokens * mask).sum()),
        "the first number is a mean of the texts' means; each token counts the same, in a short text too":
            _found(first=lambda tokens, mask: ((tokens * mask).sum(1) / mask.sum(1)).mean()),
        "the last place of a text may be padding: the second number is of the last token that counts":
            _found(second=lambda tokens, mask: tokens[:, -1].mean()),
        "the second number is of the last text alone; each text has a last token":
            _found(second=lambda tokens, mask: tokens[mask.bool()][-1]),
        "the second number is of the token before the last: places count from 0, and the last is sum - 1":
            _found(second=lambda tokens, mask: _last(tokens, mask, before=2).mean()),
        "the second number is a sum over the texts; their mean is asked":
            _found(second=lambda tokens, mask: _last(tokens, mask).sum()),
    },
)  # fmt: skip


# ship-sum -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfFactors(Comparison):
    r"""Two factors A and B are right where their product is: there are many such pairs."""

    def difference(self, given: Any, expected: Any) -> str | None:
        r"""As in Comparison."""
        if not isinstance(expected, tuple):
            return super().difference(given, expected)
        if type(given) not in (tuple, list) or len(given) != 2:
            return "it must return A and B"
        if any(type(x) is not Tensor for x in given):
            return "A and B must be tensors"
        if any(x.is_complex() for x in given):
            return "A or B is complex, as the root of a negative weight is: leave the weight whole, in one of the two"
        (A, B), (own_A, own_B) = given, expected
        if A.dim() != 2 or B.dim() != 2 or len(A) != B.shape[1]:
            return f"A is {tuple(A.shape)} and B {tuple(B.shape)}: A must have as many rows as B columns"
        if len(A) > len(own_A):
            return f"A has {len(A)} rows; {len(own_A)} are enough"
        found = super().difference(B.double() @ A.double(), own_B.double() @ own_A.double())
        if found and len(A) < len(own_A):
            return (
                f"A has {len(A)} rows, and {len(own_A)} hold every adapter's: where factors are added up, A to A and B "
                "to B, their product has cross terms, such as B1 A2"
            )
        return found


Tensors = list[Tensor]
Numbers = list[float]


def beside(A: Tensors, B: Tensors, s: Numbers, w: Numbers) -> tuple[Tensor, Tensor]:
    r"""A and B with $BA = \sum_t w_t s_t B_t A_t$: the factors beside one another, no cross terms."""
    return torch.cat([w_t * s_t * A_t for A_t, s_t, w_t in zip(A, s, w, strict=True)]), torch.cat(B, 1)


def _secret_sum(draw: Draw) -> tuple[Tensors, Tensors, Numbers, Numbers]:
    n, r, d_in, d_out = draw.whole(2, 3), draw.whole(2, 3), draw.whole(6, 9), draw.whole(6, 9)
    A, B = [draw.normal(r, d_in) for _ in range(n)], [draw.normal(d_out, r) for _ in range(n)]
    s = [draw.real(1.5, 4, 2) for _ in range(n)]
    w = [draw.real(0.3, 0.9, 2) * draw.pick((1, 1, -1)) for _ in range(n)]
    return A, B, s, w


def _factors_added(A: Tensors, B: Tensors, s: Numbers, w: Numbers) -> tuple[Tensor, Tensor]:
    return sum(w_t * s_t * A_t for A_t, s_t, w_t in zip(A, s, w, strict=True)), sum(B)


SUM = Exercise(
    compare=OfFactors, id="ship-sum", points=4, difficulty=3, minutes=15,
    secret=_secret_sum, reference=beside,
    mutants={
        "the factors are added up, A to A and B to B: their product has cross terms, such as B1 A2": _factors_added,
        "the factors are added up, each with its weight: cross terms, and weights that count twice":
            lambda A, B, s, w: (_factors_added(A, B, s, w)[0], sum(w_t * B_t for B_t, w_t in zip(B, w, strict=True))),
        "the scales are lost: the update of an adapter is s B A": lambda A, B, s, w: beside(A, B, [1.0] * len(s), w),
        "the weights are lost": lambda A, B, s, w: beside(A, B, s, [1.0] * len(w)),
        "the sign of a weight is lost: leave the weight whole, in one of the two":
            lambda A, B, s, w: beside(A, B, s, [abs(w_t) for w_t in w]),
        "the weights stand in both factors: in their product they are squared":
            lambda A, B, s, w: beside(A, B, s, [w_t**2 for w_t in w]),
        "the scales stand in both factors: in their product they are squared":
            lambda A, B, s, w: beside(A, B, [s_t**2 for s_t in s], w),
        "the weights are divided by their sum: with weight 1 an adapter must come back as it was":
            lambda A, B, s, w: beside(A, B, s, [w_t / sum(w) for w_t in w]),
        "this is divided by the number of adapters; the weights say how much of each is wanted":
            lambda A, B, s, w: beside(A, B, s, [w_t / len(w) for w_t in w]),
    },
)  # fmt: skip
