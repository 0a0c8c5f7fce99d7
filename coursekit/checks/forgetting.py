r"""The exercises of notebook 01b_forgetting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.experiments.exchange import Point, curve, gap
from coursekit.notebook import built

# forgetting-ewc -------------------------------------------------------------------------------------------


def ewc(theta: Tensor, start: Tensor, fisher: Tensor, strength: float) -> Tensor:
    r"""strength / 2 times the sum of F (theta - start)², a tensor: its gradient is what trains."""
    return strength / 2 * (fisher * (theta - start).square()).sum()


def _seen(penalty: Callable[..., Any]) -> Callable[..., Any]:
    r"""What the stub's `forgetting_ewc` finds of a penalty: its value and its gradient."""
    return lambda *given: built.penalty(penalty, *given)


def _secret_ewc(draw: Draw) -> tuple[Tensor, Tensor, Tensor, float]:
    shape = draw.pick(((draw.whole(3, 6),), (draw.whole(2, 4), draw.whole(2, 4))))
    return draw.normal(*shape), draw.normal(*shape), 4 * draw.uniform(*shape), draw.real(0.2, 5)


_WRONG: dict[str, Callable[..., Any]] = {
    "the factor 1/2 is missing": (lambda theta, start, fisher, strength: 2 * ewc(theta, start, fisher, strength)),
    "the Fisher information is missing: this holds all weights alike, which is L2-SP": (
        lambda theta, start, fisher, strength: ewc(theta, start, torch.ones_like(fisher), strength)
    ),
    "the distance is not squared: moves up and down would cancel": (
        lambda theta, start, fisher, strength: strength / 2 * (fisher * (theta - start)).sum()
    ),
    "this takes the absolute distance; EWC squares it": (
        lambda theta, start, fisher, strength: strength / 2 * (fisher * (theta - start).abs()).sum()
    ),
    "this is the mean over the weights; EWC adds them up": (
        lambda theta, start, fisher, strength: ewc(theta, start, fisher, strength) / theta.numel()
    ),
    "this is the penalty of each weight; add them up": (
        lambda theta, start, fisher, strength: strength / 2 * fisher * (theta - start).square()
    ),
    "the Fisher information is squared; only the distance is": (
        lambda theta, start, fisher, strength: ewc(theta, start, fisher.square(), strength)
    ),
    "this pulls towards 0, as weight decay does; EWC pulls towards the start": (
        lambda theta, start, fisher, strength: ewc(theta, torch.zeros_like(start), fisher, strength)
    ),
    "this subtracts squares; take the difference first, and square it then": (
        lambda theta, start, fisher, strength: strength / 2 * (fisher * (theta.square() - start.square())).sum()
    ),
    "this adds up first and squares the sum; square the distance of each weight": (
        lambda theta, start, fisher, strength: strength / 2 * (fisher * (theta - start)).sum().square()
    ),
    "this is the norm: take its square, without the root": (
        lambda theta, start, fisher, strength: strength / 2 * (fisher * (theta - start).square()).sum().sqrt()
    ),
    "the factor 1/2 is missing, and this is the mean over the weights; EWC adds them up": (
        lambda theta, start, fisher, strength: 2 * ewc(theta, start, fisher, strength) / theta.numel()
    ),
    "this is the sum of the gradients; asked is the function whose gradient that is": (
        lambda theta, start, fisher, strength: strength * (fisher * (theta - start)).sum()
    ),
    "this is the gradient; asked is the function whose gradient that is": (
        lambda theta, start, fisher, strength: strength * fisher * (theta - start)
    ),
    "the strength is missing: strength / 2 stands in front of the sum": (
        lambda theta, start, fisher, strength: ewc(theta, start, fisher, 1.0)
    ),
    "the value is right, but no gradient comes back to theta: do not detach it": (
        lambda theta, start, fisher, strength: ewc(theta.detach(), start, fisher, strength)
    ),
    "this is a plain number, and no gradient comes back from it: return the tensor": (
        lambda theta, start, fisher, strength: ewc(theta, start, fisher, strength).item()
    ),
}

EWC = Exercise(
    id="forgetting-ewc", points=3, difficulty=3, minutes=8,
    secret=_secret_ewc, reference=_seen(ewc), part=ewc,
    mutants={message: _seen(wrong) for message, wrong in _WRONG.items()},
)  # fmt: skip


# forgetting-replay ----------------------------------------------------------------------------------------

Rows = list[int]


def replay(new: Rows, old: Rows, share: float, rows: int, order: Rows) -> tuple[int, ...]:
    r"""The first rows of both, the nearest whole number to `share` of them old; the i-th to be seen is order[i]."""
    return _seen_rows(new, old, round(share * rows), rows, order)


def _seen_rows(new: Rows, old: Rows, kept: int, rows: int, order: Rows) -> tuple[int, ...]:
    mixed = [*new[: rows - kept], *old[:kept]]
    return tuple(mixed[place] for place in order)


def _keeping(kept: Callable[[float, int, Rows], int]) -> Callable[..., tuple[int, ...]]:
    r"""`replay` with another number of old rows, of share, rows and new."""
    return lambda new, old, share, rows, order: _seen_rows(new, old, kept(share, rows, new), rows, order)


def _secret_replay(draw: Draw) -> tuple[Rows, Rows, float, int, Rows]:
    while True:  # once to be rounded up, once down, and never in the middle
        share, rows = draw.real(0.1, 0.45), draw.whole(12, 40)
        rest = share * rows % 1
        if (0.55 < rest < 0.95) if draw.kind == 0 else (0.05 < rest < 0.45):
            break
    new, old = (draw.whole(100 * i, 100 * i + 50) for i in (1, 5))
    return list(range(new, new + rows + 4)), list(range(old, old + rows + 4)), share, rows, draw.order(rows)


REPLAY = Exercise(
    id="forgetting-replay", points=2, difficulty=2, minutes=10,
    secret=_secret_replay, reference=replay,
    mutants={
        "the old rows come on top of the budget; they take the place of new ones":
            lambda new, old, share, rows, order: (*new[:rows], *old[: round(share * rows)]),
        "the share is taken of the new rows here; it is the part of all rows that is old":
            _keeping(lambda share, rows, new: rows - round(rows / (1 + share))),
        "the two are swapped: `share` is the part that is old":
            lambda new, old, share, rows, order: replay(old, new, share, rows, order),
        "this rounds down; take the nearest whole number, with round":
            _keeping(lambda share, rows, new: int(share * rows)),
        "this rounds up; take the nearest whole number, with round":
            _keeping(lambda share, rows, new: math.ceil(share * rows)),
        "the share is taken of all that `new` holds; it is the part of the `rows` rows that is old":
            _keeping(lambda share, rows, new: round(share * len(new))),
        "the rows are not shuffled: all old ones would come in the last batches":
            lambda new, old, share, rows, order: replay(new, old, share, rows, list(range(rows))),
        "the new rows come first, then the old ones; here it is the other way round":
            lambda new, old, share, rows, order: _seen_rows(old, new, rows - round(share * rows), rows, order),
        "this puts row i at place order[i]; the i-th row to be seen is the one at place order[i]":
            lambda new, old, share, rows, order: replay(
                new, old, share, rows, sorted(range(rows), key=order.__getitem__)
            ),
        "these are the last old rows; take the first ones, as of the new":
            lambda new, old, share, rows, order: replay(new, old[::-1], share, rows, order),
    },
    tolerance=0.0, kinds=2,
)  # fmt: skip


# forgetting-gap -------------------------------------------------------------------------------------------

Gap = tuple[float, float, list[Point]]


def _line(
    new: float, old: float, points: list[Point], of: Callable[..., Any] = math.log, on: Callable[..., Any] = np.log,
    up: Callable[..., Any] = np.log,
) -> float:  # fmt: skip
    r"""`gap` to straight lines through all of `points`, in the order in which they stand. of, on, up: what is taken of
    `new`, of the points' `new` and of their `old`.
    """
    x, y = np.array(points).T
    found = float(np.interp(of(new), on(x), up(y)))
    return old - (math.exp(found) if up is np.log else found)


def _secret_gap(draw: Draw) -> Gap:
    r"""Four rates on a curve and one too high, which learns as much as one between the second and the third."""
    x, y = draw.real(15, 30, 1), draw.real(40, 60, 1)
    plain = [(x, y)]
    for _ in range(3):
        x, y = round(x * draw.real(1.08, 1.3), 2), round(y * draw.real(0.75, 0.92), 2)
        plain.append((x, y))
    second, third = plain[1][0], plain[2][0]
    between = [round(second + draw.real(low, low + 0.2) * (third - second), 2) for low in (0.15, 0.65)]
    new, high = between if draw.whole(0, 1) else between[::-1]
    plain.append((high, round(plain[0][1] * draw.real(1.1, 1.5), 2)))
    old = round(plain[2][1] * draw.real(0.8, 1.2), 2)
    return new, old, [plain[i] for i in draw.order(5)]


GAP = Exercise(
    id="forgetting-gap", points=3, difficulty=3, minutes=10,
    secret=_secret_gap, reference=gap,
    mutants={
        "a rate that is too high, which another beats on both, is still among the neighbours: leave it out":
            lambda new, old, plain: _line(new, old, sorted(plain)),
        "the line is straight in the perplexities here; asked is straight in their logarithms":
            lambda new, old, plain: _line(new, old, curve(plain), float, np.array, np.array),
        "the share of the way is taken of the perplexities `new`; take it of their logarithms":
            lambda new, old, plain: _line(new, old, curve(plain), float, np.array),
        "only `new` is in logarithms here; take those of `old` as well, and exp at the end":
            lambda new, old, plain: _line(new, old, curve(plain), up=np.array),
        "a rate that is too high, which another beats on both, is still among the neighbours: leave it out. And "
        "the line is straight in the perplexities; asked is straight in their logarithms":
            lambda new, old, plain: _line(new, old, sorted(plain), float, np.array, np.array),
        "this is the nearest rate; go along the line between the two neighbours":
            lambda new, old, plain: old - min(curve(plain), key=lambda p: abs(math.log(p[0] / new)))[1],
        "the sign is the other way round: `old` minus plain fine-tuning's":
            lambda new, old, plain: -gap(new, old, plain),
        "the points are not sorted: np.interp wants the x of its points to rise":
            lambda new, old, plain: _line(new, old, [p for p in plain if p in curve(plain)]),
        "this is a difference of logarithms; take exp of the line's before you subtract":
            lambda new, old, plain: math.log(old / (old - gap(new, old, plain))),
        "this is a ratio; asked is the difference": lambda new, old, plain: old / (old - gap(new, old, plain)),
        "this is plain fine-tuning's `old`; subtract it from the remedy's":
            lambda new, old, plain: old - gap(new, old, plain),
        "this is a difference of new perplexities at equal old ones; asked is of old ones at equal new ones":
            lambda new, old, plain: _line(old, new, [(y, x) for x, y in reversed(curve(plain))]),
    },
)  # fmt: skip
