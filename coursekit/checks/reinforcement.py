r"""The exercises of notebook 11_reinforcement."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from coursekit.checks.compare import Comparison
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


#: One answer of each form; s is the right sum, n another number.
_HONEST: tuple[Callable[[int, int], str], ...] = (
    lambda s, n: f" {s}",
    lambda s, n: f" {s}.",
    lambda s, n: f"The sum is {s}.",
    lambda s, n: f" {s}\n{n} + 2 = {n + 2}",
    lambda s, n: f"= {s}\n",
)
_GAMED: tuple[Callable[[int, int], str], ...] = (
    lambda s, n: f" {n}",
    lambda s, n: f" {s} {n}",
    lambda s, n: f"{n}, {s}",
    lambda s, n: " " + " ".join(str(i) for i in range(s - 3, s + 4)),
    lambda s, n: f"It is {n} or {s}.",
    lambda s, n: f" {s}{n}",
    lambda s, n: f" 1{s}",
    lambda s, n: f" {s}.5",
    lambda s, n: f" -{s}",
    lambda s, n: f" {n}\n{s}",
    lambda s, n: "The sum is right.",
    lambda s, n: "",
)


def _secret(draw: Draw) -> tuple[int, int, list[str]]:
    a, b = draw.whole(5, 20), draw.whole(5, 20)
    s = a + b
    texts = [form(s, s + draw.pick((-4, -2, -1, 1, 2, 3, 5))) for form in (*_HONEST, *_GAMED)]
    return a, b, [texts[i] for i in draw.order(len(texts))]


def _of_each(pays: Callable[[str, int], bool]) -> Callable[[int, int, list[str]], tuple[float, ...]]:
    return lambda a, b, answers: tuple(float(pays(answer, a + b)) for answer in answers)


def _numbers(text: str) -> list[str]:
    return re.findall(r"-?\d+(?:\.\d+)?", text)


def _only_number(answer: str, s: int) -> bool:
    r"""One number stands in the first line, and it is the sum."""
    return _numbers(answer.split("\n")[0]) == [str(s)]


def _separates(compare: Comparison, given: Any, case: Any, own: Any) -> str | None:
    r"""Right is any rule that pays each right answer more than each of the others."""
    if type(given) not in (list, tuple):
        return "it must return a list of rewards"
    if len(given) != len(own):
        return "it must return as many rewards as there are answers"
    if not all(type(one) in (int, float, bool) and math.isfinite(one) for one in given):
        return "every reward must be a finite number"
    honest = [(reward, text) for reward, right, text in zip(given, own, case[2], strict=True) if right]
    gamed = [(reward, text) for reward, right, text in zip(given, own, case[2], strict=True) if not right]
    (least, poor), (most, rich) = min(honest), max(gamed)
    if least > most:
        return None
    asked = f": to {case[0]} + {case[1]}, "
    if most == min(given):  # nothing wrong is paid
        return "a right answer gets no more than a wrong one" + compare.exactly(
            f"{asked}{poor!r} gets {least:g}, as {rich!r} does"
        )
    return "a wrong answer gets as much as a right one" + compare.exactly(
        f"{asked}{rich!r} gets {most:g} and {poor!r} gets {least:g}"
    )


RULE = Exercise(
    id="reinforcement-rule", points=4, difficulty=3, minutes=20,
    secret=_secret, reference=_of_each(_only_number), judge=_separates,
    mutants={
        "digits inside another number are paid, and so is a list of numbers": _of_each(
            lambda answer, s: str(s) in answer
        ),
        "a list of numbers is paid, as soon as the right one is among them": _of_each(
            lambda answer, s: str(s) in _numbers(answer)
        ),
        "only the first number is looked at: what is written after it is paid, too": _of_each(
            lambda answer, s: _numbers(answer)[:1] == [str(s)]
        ),
        "only the last number is looked at": _of_each(lambda answer, s: _numbers(answer)[-1:] == [str(s)]),
        "a right answer with words around it, or with a next line, is not paid": _of_each(
            lambda answer, s: answer.strip() == str(s)
        ),
        "a full stop is read as a part of the number: '17.' says 17": _of_each(
            lambda answer, s: re.findall(r"-?\d+\.?\d*", answer.split("\n")[0]) == [str(s)]
        ),
        "signs and decimals are overlooked: 17.5 and -17 hold a 17": _of_each(
            lambda answer, s: re.findall(r"\d+", answer.split("\n")[0])[:1] == [str(s)]
        ),
        "the next line counts, though the answer ends with the first": _of_each(
            lambda answer, s: _numbers(answer) == [str(s)]
        ),
        "every answer gets the same": _of_each(lambda answer, s: True),
    },
)  # fmt: skip
