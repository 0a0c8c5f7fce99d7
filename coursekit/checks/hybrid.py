r"""The exercises of notebook 09_hybrid."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# hybrid-share ---------------------------------------------------------------------------------------------


def _behind_prefix(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    random, d = _random(seed), 4 + seed
    shapes = ((5, d), (5, d), (3, d))
    q, k, p_k = (2 * torch.randn(*shape, generator=random, dtype=torch.float64) for shape in shapes)
    return q, k, p_k


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
        minutes=10,
        hints=(
            "One softmax runs over all n + seq keys. Whatever goes to the first n of them has left the text.",
            "torch.cat([p_k, k]) are all keys. The scores are q @ keys.T / sqrt(d_h), and d_h is q.shape[1].",
            "scores.softmax(-1)[:, :n] are the weights on the prefix, (seq, n). A share is their sum.",
        ),
        inputs=_behind_prefix,
        secret=_secret_share,
        reference=share,
        mutants=(
            Mutant(
                lambda q, k, p_k: 1 - share(q, k, p_k),
                "this is what the text keeps; asked is what goes to the prefix",
            ),
            Mutant(
                lambda q, k, p_k: _weights(q, k, p_k, scale=1.0).sum(-1),
                "the scores are not divided by the root of d_h",
            ),
            Mutant(
                lambda q, k, p_k: _weights(q, k, p_k).mean(-1),
                "this is the mean weight of one virtual token; the share is their sum",
            ),
            Mutant(
                lambda q, k, p_k: _weights(q, k, p_k).max(-1).values,
                "this is the weight of one virtual token, the strongest; the share adds all n",
            ),
            Mutant(
                lambda q, k, p_k: _weights(q, k, p_k, over=0).sum(-1),
                "the softmax runs over the queries; the weights of each query over the keys add up to 1, so dim=-1",
            ),
            Mutant(
                _odds,
                "this compares prefix with text, and can be above 1; a share is the prefix's part of both together",
            ),
            Mutant(
                lambda q, k, p_k: _weights(q, p_k, k)[:, : len(p_k)].sum(-1),
                "the first n columns belong to the text here: the prefix stands last in these keys",
            ),
            Mutant(
                lambda q, k, p_k: (q @ p_k.T).softmax(-1).sum(-1),
                "a softmax over the prefix alone always adds up to 1; prefix and text share one softmax",
            ),
            Mutant(
                lambda q, k, p_k: torch.full((len(q),), len(p_k) / (len(p_k) + len(k)), dtype=q.dtype),
                "this is the share if all keys got the same weight; each query weighs them by its scores",
            ),
        ),
        tolerance=1e-8,
    )
)


# hybrid-gate ----------------------------------------------------------------------------------------------


def _padded(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random, d = _random(seed), 4 + seed
    x = torch.randn(3, 6, d, generator=random, dtype=torch.float64)
    w, b = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in ((d,), ()))
    mask = (torch.arange(6) < torch.tensor([[6], [4 - seed], [2]])).long()
    mask[2] = mask[2].flip(0)  # some tokenizers pad on the left
    return x, w, b, mask


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
        minutes=10,
        hints=(
            "x @ w + b has one number for each token: (batch, seq). The sigmoid puts it between 0 and 1.",
            "Average after the sigmoid, and over the tokens of the same sentence: dim 1.",
            "(values * mask).sum(1) / mask.sum(1) is the mean over the places where the mask is 1.",
        ),
        inputs=_padded,
        secret=_secret_gate,
        reference=gate,
        mutants=(
            Mutant(
                lambda x, w, b, mask: (x @ w + b).sigmoid().mean(1),
                "the padding is averaged in; then a gate would depend on how long the other sentences of the batch are",
            ),
            Mutant(
                lambda x, w, b, mask: _over_tokens(x @ w + b, mask).sigmoid(),
                "the average is taken before the sigmoid; each token has a gate of its own first",
            ),
            Mutant(
                lambda x, w, b, mask: _over_tokens(x @ w + b, mask),
                "there is no sigmoid: a gate lies between 0, closed, and 1, open",
            ),
            Mutant(
                lambda x, w, b, mask: _over_tokens((x @ w + b).tanh(), mask),
                "tanh goes down to -1; this gate is a sigmoid, from 0 to 1",
            ),
            Mutant(
                lambda x, w, b, mask: _over_tokens((x @ w + b).softmax(1), mask),
                "a softmax makes the tokens compete, and their gates add up to 1; each token has a sigmoid here",
            ),
            Mutant(
                lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).sum(1),
                "the gates are added up; divide by the number of real tokens",
            ),
            Mutant(
                lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).mean(1),
                "the sum leaves the padding out, but the division counts it: divide by mask.sum(1)",
            ),
            Mutant(
                lambda x, w, b, mask: ((x * mask[..., None]) @ w + b).sigmoid().mean(1),
                "a padded place whose vector is 0 still answers sigmoid(b); take it out of the average",
            ),
            Mutant(
                lambda x, w, b, mask: (x @ w + b).sigmoid(),
                "there is one gate for each token; average them to one for each sentence",
            ),
            Mutant(
                lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).sum() / mask.sum(),
                "this is one gate for the whole batch; each sentence has its own",
            ),
            Mutant(
                lambda x, w, b, mask: _over_tokens((x @ w).sigmoid(), mask),
                "the bias is missing: w . x + b",
            ),
            Mutant(
                lambda x, w, b, mask: (x[:, 0] @ w + b).sigmoid(),
                "this reads the first token only; the gate averages over all real ones",
            ),
            Mutant(
                lambda x, w, b, mask: 1 - gate(x, w, b, mask),
                "this is how far the gate is closed; mind the sign of what goes into the sigmoid",
            ),
        ),
        tolerance=1e-8,
    )
)


# hybrid-kronecker -----------------------------------------------------------------------------------------


Factors = tuple[Tensor, Tensor, Tensor, Tensor]


def _factors(seed: int) -> Factors:
    # As many outputs as inputs, so that factors that are swapped run without an error; and the last time more. Few
    # tokens and long s and t, so that no way through the factors makes a tensor as large as W.
    random, n, m = _random(seed), 2 + seed % 2, 13 + seed
    shapes = ((2, 2, n * m), (n, n, n), (n, 2 * m if seed == 2 else m), (n, m))
    x, A, s, t = (torch.randn(*shape, generator=random, dtype=torch.float64) for shape in shapes)
    return x, A, s, t


def kronecker_product(x: Tensor, A: Tensor, s: Tensor, t: Tensor) -> Tensor:
    r"""(sum_i A_i (x) s_i t_i^T) x, from the factors: (batch, seq, d_out)."""
    pieces = x.unflatten(-1, (len(A), -1))  # (batch, seq, n, d_in / n)
    seen = torch.einsum("...qe,ie->...iq", pieces, t)
    mixed = torch.einsum("ipq,...iq->...ip", A, seen)
    return torch.einsum("...ip,ie->...pe", mixed, s).flatten(-2)


def kronecker(x: Tensor, A: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, bool]:
    r"""What the stub's `hybrid_kronecker` finds of a right layer: the product, and that W was never there."""
    return kronecker_product(x, A, s, t), True


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
            "Three steps: the numbers t_i · x_q; A_i mixes them over q, one number for each p and i; output block p is "
            "the sum over i of that number times s_i.",
            "x.unflatten(-1, (n, -1)) makes the pieces; torch.einsum('...qe,ie->...iq', pieces, t) is the first step. "
            "Loops over i, p and q do as well.",
        ),
        inputs=_factors,
        secret=_secret_kronecker,
        reference=kronecker,
        mutants=(
            Mutant(_layer(kronecker_product, small=False), BUILT),
            *(Mutant(_layer(wrong, small=True), message) for message, wrong in _WRONG_PRODUCTS.items()),
            *(
                Mutant(_layer(wrong, small=False), f"{message}. And {BUILT}")
                for message, wrong in _WRONG_PRODUCTS.items()
            ),
            Mutant(
                lambda x, A, s, t: (_whole(A, s, t), False),
                "this is the matrix W itself; asked is W x, for every token, and without W",
            ),
        ),
        tolerance=1e-8,
        kinds=2,
    )
)


# hybrid-plan ----------------------------------------------------------------------------------------------

#: (method, seed, validation accuracy)
Pilot = tuple[tuple[str, int, float], ...]
#: Fewer say nothing of a spread.
FEWEST = 3
#: Standard errors that a difference must be large to be found four times in five: the margin of 95 % (1.96), and on top
#: the 0.84 that four of five normal numbers do not fall short by.
POWER = 1.96 + 0.84


def of_each_method(
    pilot: Pilot, statistic: Callable[[Sequence[float]], float] = statistics.variance
) -> list[float]:
    r"""A statistic of each method's accuracies, in the order in which the pilot names them."""
    methods = list(dict.fromkeys(method for method, _, _ in pilot))
    return [statistic([score for own, _, score in pilot if own == method]) for method in methods]


def new_seeds(pilot: Pilot, n: int) -> tuple[int, ...]:
    r"""The `n` smallest seeds that no run of `pilot` has."""
    used = {seed for _, seed, _ in pilot}
    return tuple(seed for seed in range(n + len(used)) if seed not in used)[:n]


def _seeds_for(variance: float, smallest: float, errors: float = POWER) -> int:
    return max(FEWEST, math.ceil(errors**2 * variance / smallest**2))


def plan(pilot: Pilot, smallest: float) -> tuple[int, ...]:
    r"""New seeds, just so many that 2.8 standard errors of the difference are at most `smallest`."""
    return new_seeds(pilot, _seeds_for(sum(of_each_method(pilot)), smallest))


#: Wrong numbers of seeds, each with what is wrong with it.
_WRONG_COUNTS: dict[str, Callable[[Pilot, float], int]] = {
    "this makes one standard error as small as asked; asked are 2.8": lambda pilot, smallest: _seeds_for(
        sum(of_each_method(pilot)), smallest, errors=1
    ),
    "with 1.96 or 2 standard errors a difference of just `smallest` is found half of the time; asked are 2.8": (
        lambda pilot, smallest: _seeds_for(sum(of_each_method(pilot)), smallest, errors=2)
    ),
    "this is the spread of one method alone; both means scatter, so their variances add up": lambda pilot, smallest: (
        _seeds_for(of_each_method(pilot)[0], smallest)
    ),
    "the variance is taken over all runs together: then the difference between the methods counts as noise": (
        lambda pilot, smallest: _seeds_for(2 * statistics.variance([score for *_, score in pilot]), smallest)
    ),
    "a variance from a few runs divides by n - 1: statistics.variance, not pvariance": lambda pilot, smallest: (
        _seeds_for(sum(of_each_method(pilot, statistics.pvariance)), smallest)
    ),
    "this rounds down, and so many seeds are just too few": lambda pilot, smallest: max(
        FEWEST, math.floor(POWER**2 * sum(of_each_method(pilot)) / smallest**2)
    ),
    "the error of a mean falls with the root of the seeds, not with their number": lambda pilot, smallest: (
        max(FEWEST, math.ceil(POWER * sum(of_each_method(pilot)) ** 0.5 / smallest))
    ),
    "the standard deviations are added; of independent means the variances add up": lambda pilot, smallest: (
        _seeds_for(sum(v**0.5 for v in of_each_method(pilot)) ** 2, smallest)
    ),
}


def _pilot_runs(draw: Draw) -> tuple[Pilot, float]:
    r"""Five pilot runs of two methods, and the smallest difference that matters. The second kind needs few seeds."""
    one, other = draw.pick(_ONE), draw.pick(_OTHER)
    used = draw.order(9)[:5]
    while True:
        runs = [
            (method, seed, round(middle + draw.real(-0.03, 0.03), 4))
            for method, middle in ((one, draw.real(0.80, 0.84)), (other, draw.real(0.74, 0.77)))
            for seed in used
        ]
        smallest = draw.real(0.085, 0.125) if draw.kind else draw.real(0.017, 0.028)
        exact = POWER**2 * sum(of_each_method(tuple(runs))) / smallest**2
        if draw.kind and exact < FEWEST - 1:
            break
        # Far from a whole number, so that no rounding decides; and every mistake asks for another number of seeds.
        found = {make(tuple(runs), smallest) for make in _WRONG_COUNTS.values()} | {math.ceil(exact)}
        if not draw.kind and 6 < exact < 30 and 0.1 < exact % 1 < 0.9 and len(found) > len(_WRONG_COUNTS):
            break
    return tuple(runs[i] for i in draw.order(len(runs))), smallest


_ONE, _OTHER = ("lora", "bitfit", "compacter", "mam"), ("houlsby", "ia3", "prefix", "unipelt")


PLAN = register(
    Exercise(
        id="hybrid-plan",
        points=3,
        difficulty=3,
        minutes=20,
        hints=(
            "The difference of two means over k seeds has the standard error ((s1² + s2²) / k) ** 0.5, with s² the "
            "variance of one method's pilot runs (statistics.variance).",
            "2.8 of these are to be at most `smallest`. Solve for k, round up (math.ceil), and take three at least.",
            "Count up from 0 and leave out what the pilot used, until there are k seeds.",
        ),
        inputs=lambda seed: _pilot_runs(Draw(b"the notebook's", f"pilot {seed}", kind=seed % 2)),
        secret=_pilot_runs,
        reference=plan,
        mutants=(
            *(
                Mutant(lambda pilot, smallest, make=make: new_seeds(pilot, make(pilot, smallest)), message)
                for message, make in _WRONG_COUNTS.items()
            ),
            Mutant(
                lambda pilot, smallest: tuple(range(len(plan(pilot, smallest)))),
                "seeds of the pilot are among them: what gave you the idea cannot confirm it as well",
            ),
            Mutant(
                lambda pilot, smallest: new_seeds(
                    pilot, max(1, math.ceil(POWER**2 * sum(of_each_method(pilot)) / smallest**2))
                ),
                "with fewer than three seeds the comparison cannot say how much seeds matter",
            ),
            Mutant(
                lambda pilot, smallest: len(plan(pilot, smallest)),
                "this is how many seeds; asked is which, so that nobody can choose them afterwards",
            ),
        ),
        tolerance=0.0,
        kinds=2,
    )
)


# hybrid-conclude ------------------------------------------------------------------------------------------

#: (method, seed, test accuracy)
Runs = tuple[tuple[str, int, float], ...]
Conclusion = tuple[str, float, float]
INCOMPLETE, NONE, OPEN = "incomplete", "no difference that matters", "cannot tell"
#: The margin where a method has a single run, and so no variance: two accuracies may differ by anything.
UNKNOWN = 1.0
#: Student's t at 95 % for two times five seeds; the normal distribution's 1.96 is for a variance that is known.
FIVE = 2.306


def _concluded(
    registered: bool = True,
    complete: bool = True,
    small_first: bool = True,
    factor: float | None = None,
    of_means: bool = True,
    open_is: str = OPEN,
    mean: Callable[[Sequence[float]], float] = statistics.fmean,
    variance: Callable[[Sequence[float]], float] = statistics.variance,
) -> Callable[..., Conclusion]:
    r"""The right rule, or one with a single thing wrong. factor: instead of the standard errors that are given."""

    def rule(
        runs: Runs, one: str, other: str, seeds: Sequence[int], smallest: float, errors: float
    ) -> Conclusion:
        own = {
            method: [
                score for name, seed, score in runs if name == method and (seed in seeds or not registered)
            ]
            for method in (one, other)
        }
        difference = mean(own[one]) - mean(own[other])
        if min(map(len, own.values())) < 2:
            return INCOMPLETE, difference, UNKNOWN
        spread = sum(variance(scores) / (len(scores) if of_means else 1) for scores in own.values())
        margin = (errors if factor is None else factor) * spread**0.5
        if complete and any(len(scores) < len(seeds) for scores in own.values()):
            return INCOMPLETE, difference, margin
        small = abs(difference) + margin < smallest
        if small and small_first:
            return NONE, difference, margin
        if abs(difference) > margin:
            return (one if difference > 0 else other), difference, margin
        return (NONE if small else open_is), difference, margin

    return rule


conclude = _concluded()


def _swapped_sign(*arguments: Any) -> Conclusion:
    verdict, difference, margin = conclude(*arguments)
    return verdict, -difference, margin


#: What the cases are: (difference, spread, the smallest that matters), and the verdict. In the last two, runs are
#: missing: one, or all but one of a method.
_CASES = (
    (0.040, 0.010, 0.020),
    (-0.040, 0.010, 0.020),
    (0.002, 0.008, 0.040),
    (0.006, 0.012, 0.013),
    (0.020, 0.004, 0.050),
    (0.040, 0.010, 0.020),
    (0.040, 0.010, 0.020),
)


def _right_verdict(kind: int, one: str, other: str) -> str:
    return (one, other, NONE, OPEN, NONE, INCOMPLETE, INCOMPLETE)[kind]


def _registered_runs(draw: Draw) -> tuple[Runs, str, str, tuple[int, ...], float, float]:
    r"""Runs of the two methods that were registered, of a third, and of seeds that nobody registered."""
    one, other = draw.pick(_ONE), draw.pick(_OTHER)
    difference, spread, smallest = _CASES[draw.kind]
    numbers = draw.order(20)
    seeds, more = tuple(sorted(numbers[:5])), numbers[5:8]
    middle = draw.real(0.72, 0.78)
    while True:
        runs = []
        for method, level, shift in (
            (one, middle + difference, -0.05),
            (other, middle, 0.04),
            ("full", 0.86, 0.0),
        ):
            for seed in (*seeds, *more):
                moved = level + (shift if seed in more else 0.0)
                runs.append((method, seed, round(moved + draw.real(-1.7, 1.7) * spread, 4)))
        if draw.kind == 5:
            runs = [run for run in runs if run[:2] != (other, seeds[2])]
        if draw.kind == 6:
            runs = [run for run in runs if run[0] != other or run[1] == seeds[1]]
            break
        whole = _concluded(complete=False)(tuple(runs), one, other, seeds, smallest, FIVE)
        gap, margin = abs(whole[1]), whole[2]
        near = min(abs(gap - margin), abs(gap + margin - smallest), abs(gap - smallest)) < 0.001
        told = gap > margin and gap > 0.001
        found = conclude(tuple(runs), one, other, seeds, smallest, FIVE)[0]
        within = draw.kind != 3 or gap < smallest  # still open, though what was found is small
        if (
            within
            and not near
            and found == _right_verdict(draw.kind, one, other)
            and told == (draw.kind not in (2, 3))
        ):
            break
    return tuple(runs[i] for i in draw.order(len(runs))), one, other, seeds, smallest, FIVE


CONCLUDE = register(
    Exercise(
        id="hybrid-conclude",
        points=4,
        difficulty=4,
        minutes=25,
        hints=(
            "Take the runs of the two methods with the registered seeds, and no others. Is there one for every seed?",
            "difference = mean of one − mean of the other; margin = errors * (variance / k of one + variance / k of "
            "the other) ** 0.5, with statistics.variance, which needs two runs.",
            "In this order: incomplete; |difference| + margin < smallest; |difference| > margin; and what is left.",
        ),
        inputs=lambda seed: _registered_runs(Draw(b"the notebook's", f"runs {seed}", kind=(3, 4, 5)[seed])),
        secret=_registered_runs,
        reference=conclude,
        mutants=(
            Mutant(
                _concluded(registered=False),
                "runs of seeds that were not registered count here: who may add runs until the result pleases will "
                "find one",
            ),
            Mutant(
                _concluded(complete=False),
                "a registered run is missing, and the others are averaged as if nothing were: say 'incomplete'",
            ),
            Mutant(
                _concluded(open_is=NONE),
                "this reads 'not told apart' as equal; only difference ± margin within ±smallest says so",
            ),
            Mutant(
                _concluded(small_first=False),
                "told apart, but too small to matter, as was registered: say 'no difference that matters'",
            ),
            Mutant(_concluded(factor=1), "this margin is one standard error; take as many as `errors` says"),
            Mutant(
                _concluded(factor=2),
                "two standard errors are for a variance that is known; with few seeds it is more: `errors`",
            ),
            Mutant(
                _concluded(of_means=False),
                "this is the spread of single runs; the mean of k scatters less: divide the variances by k",
            ),
            Mutant(
                _concluded(variance=statistics.pvariance),
                "a variance from a few runs divides by n - 1: statistics.variance, not pvariance",
            ),
            Mutant(
                _concluded(mean=max), "these are the best runs; the mean over all registered seeds decides"
            ),
            Mutant(
                _swapped_sign, "the sign is the other way round: the first method's mean minus the second's"
            ),
        ),
        tolerance=1e-6,
        kinds=7,
    )
)
