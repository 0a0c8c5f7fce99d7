r"""The exercises of notebook 11_reinforcement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw


def _grpo() -> Any:
    r"""The course's own functions, imported when they are asked: transformers comes with them, for seconds."""
    from coursekit.training import grpo

    return grpo


# reinforcement-advantages ---------------------------------------------------------------------------------


def _secret_rewards(draw: Draw) -> tuple[Tensor]:
    # One group whose rewards are all equal, with a mean that rounding puts beside them; one of zeros and ones, as the
    # page's rules give them, with a deviation below 1; and in the others a wide spread.
    prompts, group = draw.whole(3, 4), draw.whole(6, 7)
    rewards = 3 * draw.uniform(prompts, group) - 1
    rewards[:, 0], rewards[:, 1] = -2.0, 3.0
    equal, paid = draw.order(prompts)[:2]
    rewards[paid] = (torch.arange(group) < draw.whole(2, group - 2)).double()
    rewards = torch.stack([row[torch.tensor(draw.order(group))] for row in rewards])
    for _ in range(100):  # about every tenth value does
        rewards[equal] = draw.real(0.1, 0.9)
        if bool((rewards.mean(1) != rewards[:, 0])[equal]):
            break
    return (rewards,)


def _over(rewards: Tensor, spread: Callable[[Tensor], Tensor]) -> Tensor:
    return (rewards - rewards.mean(1, keepdim=True)) / (spread(rewards) + 1e-4)


ADVANTAGES = Exercise(
    id="reinforcement-advantages", points=3, difficulty=2, minutes=10,
    tolerance=4e-3,  # a student's small number may be 1e-3
    secret=_secret_rewards, reference=lambda rewards: _grpo().group_advantages(rewards),
    mutants={
        "this is the distance from the mean of all rewards; each answer is compared with its own group":
            lambda r: (r - r.mean()) / (r.std(1, keepdim=True) + 1e-4),
        "mean and deviation are those of all rewards; each group has its own":
            lambda r: (r - r.mean()) / (r.std() + 1e-4),
        "the groups are the rows; this goes down the columns": lambda r: (r - r.mean(0)) / (r.std(0) + 1e-4),
        "these are distances from the group's mean; count them in standard deviations":
            lambda r: r - r.mean(1, keepdim=True),
        "this divides by the variance; the standard deviation is its root":
            lambda r: _over(r, lambda x: x.var(1, keepdim=True)),
        "this deviation divides by n; take std as torch gives it, with n - 1":
            lambda r: _over(r, lambda x: x.std(1, keepdim=True, unbiased=False)),
        "a group of equal rewards does not get 0, since rounding can put its mean beside them: add a small number "
        "to std before you divide": lambda r: torch.nan_to_num((r - r.mean(1, keepdim=True)) / r.std(1, keepdim=True)),
        "a deviation below 1 is not divided by; each group is counted in its own":
            lambda r: (r - r.mean(1, keepdim=True)) / r.std(1, keepdim=True).clamp(min=1),
        "this divides by the group's mean; the standard deviation is asked":
            lambda r: _over(r, lambda x: x.mean(1, keepdim=True)),
        "the sign is wrong: better than the group is positive": lambda r: -_grpo().group_advantages(r),
        "the mean is not taken off: an answer that is as good as its group has advantage 0":
            lambda r: r / (r.std(1, keepdim=True) + 1e-4),
    },
)  # fmt: skip


# reinforcement-clipped ------------------------------------------------------------------------------------


def _secret_clipped(draw: Draw) -> tuple[Tensor, Tensor, Tensor, float]:
    # Advantages of both signs, and ratios inside and on both sides of the clipping. As many tokens as answers: whoever
    # lays the advantages along the tokens gets a value, and is told.
    answers = seq = draw.whole(4, 6)
    old = -3 * draw.uniform(answers, seq) - 0.5
    moved = 0.6 * draw.normal(answers, seq)
    signs = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64)[:answers]
    return old + moved, old, signs * (draw.uniform(answers) + 0.3), draw.real(0.1, 0.3, 2)


def _smaller(rho: Tensor, A: Tensor, clip: Callable[[Tensor], Tensor]) -> Tensor:
    return -torch.minimum(rho * A, clip(rho) * A)


def _wrong(
    loss: Callable[..., Tensor] = _smaller,
    ratio: Callable[[Tensor, Tensor], Tensor] = lambda logps, old: (logps - old).exp(),
) -> Callable[..., Tensor]:
    r"""Another loss of the ratios, the advantages and the clipping, or of other ratios."""
    return lambda logps, old, A, e: loss(ratio(logps, old), A[:, None], lambda x: x.clamp(1 - e, 1 + e))


CLIPPED = Exercise(
    id="reinforcement-clipped", points=4, difficulty=3, minutes=15,
    secret=_secret_clipped, reference=lambda *given: _grpo().clipped_loss(*given),
    mutants={
        "this takes the larger of the two products; the loss takes the smaller":
            _wrong(lambda rho, A, clip: -torch.maximum(rho * A, clip(rho) * A)),
        "the sign is wrong: this is what is to grow, and a loss is to fall":
            lambda n, o, a, e: -_grpo().clipped_loss(n, o, a, e),
        "this is the clipped product alone: a ratio that has gone the wrong way could never come back":
            _wrong(lambda rho, A, clip: -clip(rho) * A),
        "nothing is clipped: beyond 1 ± epsilon a token is to earn nothing more": _wrong(lambda rho, A, clip: -rho * A),
        "the product is clipped; clip the ratio, then multiply":
            _wrong(lambda rho, A, clip: -torch.minimum(rho * A, clip(rho * A))),
        "the advantages lie along the tokens; each answer has one: advantages[:, None]":
            _wrong(lambda rho, A, clip: _smaller(rho, A.T, clip)),
        "the smaller ratio is not the smaller product: with a negative advantage it is the other one":
            _wrong(lambda rho, A, clip: -torch.minimum(rho, clip(rho)) * A),
        "this is the difference of the logarithms; the ratio is its exponential":
            _wrong(ratio=lambda logps, old: logps - old),
        "this is a ratio of log-probabilities; that of probabilities is the exponential of their difference":
            _wrong(ratio=lambda logps, old: logps / old),
        "the ratio is upside down: the model now, over the model that drew the answer":
            lambda n, o, a, e: _grpo().clipped_loss(o, n, a, e),
        "this is one number; leave the tokens apart, (answers, seq)":
            lambda n, o, a, e: _grpo().clipped_loss(n, o, a, e).mean(),
        "this is one number an answer; leave the tokens apart, (answers, seq)":
            lambda n, o, a, e: _grpo().clipped_loss(n, o, a, e).mean(1),
    },
)  # fmt: skip


# reinforcement-parts --------------------------------------------------------------------------------------


def _secret_parts(draw: Draw) -> tuple[Tensor, ...]:
    # Some sums of each kind, each kind with its was and now and the ends of its before and after, in eighths.
    kinds = [(0, 1, 1, 3, 3, 8), (0, 1, 0, 0, 2, 8), (1, 1, 3, 6, 2, 8), (1, 0, 4, 8, 0, 3)]
    kinds += [(0, 0, 0, 0, 1, 3), (0, 0, 1, 3, 0, 3)]
    rows = [
        (was, now, draw.whole(low, high) / 8, draw.whole(least, most) / 8)
        for was, now, low, high, least, most in kinds
        for _ in range(draw.whole(2, 4))
    ]
    was, now, before, after = torch.tensor([rows[i] for i in draw.order(len(rows))], dtype=torch.float64).T
    return was.bool(), now.bool(), before, after


def _kinds(was: Tensor, now: Tensor) -> list[Tensor]:
    return [~was & now, was & now, was & ~now, ~was & ~now]


def _brings(kinds: list[Tensor], of_each: Tensor) -> tuple[float, ...]:
    return tuple((of_each * kind).mean().item() for kind in kinds)


def _in_parts(was: Tensor, now: Tensor, before: Tensor, after: Tensor) -> tuple[float, ...]:
    return _brings(_kinds(was, now), after - before)


PARTS = Exercise(
    id="reinforcement-parts", points=3, difficulty=2, minutes=10,
    secret=_secret_parts, reference=_in_parts,
    mutants={
        "these are means over each kind's own sums; divide by the number of all sums, so that they add up to the "
        "gain": lambda w, n, b, a: tuple((a - b)[kind].mean().item() for kind in _kinds(w, n)),
        "these are added up and not divided; the gain is a mean over all sums":
            lambda w, n, b, a: _brings(_kinds(w, n), (a - b) * len(w)),
        "these are shares of the sums; a kind brings what its draws have gained":
            lambda w, n, b, a: _brings(_kinds(w, n), torch.ones_like(b)),
        "this counts the draws after the training; what they gained is after - before":
            lambda w, n, b, a: _brings(_kinds(w, n), a),
        "the sign is wrong: a gain is after - before": lambda w, n, b, a: _brings(_kinds(w, n), b - a),
        "draws that became fewer count as well, with their minus":
            lambda w, n, b, a: _brings(_kinds(w, n), (a - b).clamp(min=0)),
        "was and now are swapped: found was wrong before and is right now":
            lambda w, n, b, a: _brings(_kinds(n, w), a - b),
        "found asks that the likeliest number was wrong before; where it was right already, it is confidence":
            lambda w, n, b, a: _brings([n, *_kinds(w, n)[1:]], a - b),
        "lost asks that the likeliest number was right before; where it was wrong already, it is of the others":
            lambda w, n, b, a: _brings([~w & n, w & n, ~n, ~w & ~n], a - b),
    },
)  # fmt: skip
