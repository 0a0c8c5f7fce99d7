r"""The exercises of notebook 01b_forgetting."""

from __future__ import annotations

import torch
from torch import Tensor

from coursekit.checks.core import Exercise, register
from coursekit.checks.draw import Draw

# forgetting-ewc -------------------------------------------------------------------------------------------


def ewc(theta: Tensor, start: Tensor, fisher: Tensor, strength: float) -> Tensor:
    r"""strength / 2 times the sum of F (theta - start)², a tensor: its gradient is what trains."""
    return strength / 2 * (fisher * (theta - start).square()).sum()


def _secret_shape(draw: Draw) -> tuple[int, ...]:
    return draw.pick(((draw.whole(3, 6),), (draw.whole(2, 4), draw.whole(2, 4))))


def _secret_ewc(draw: Draw) -> tuple[Tensor, Tensor, Tensor, float]:
    shape = _secret_shape(draw)
    return draw.normal(*shape), draw.normal(*shape), 4 * draw.uniform(*shape), draw.real(0.2, 5)


EWC = register(
    Exercise(
        id="forgetting-ewc",
        points=3,
        difficulty=3,
        minutes=8,
        hints=(
            "Take one weight. Which function of the distance u has the gradient u, and is 0 at u = 0?",
            "The square of the distance has twice the gradient that is wanted.",
            "Half the strength times the sum of F times the squared distances, over all weights.",
        ),
        secret=_secret_ewc,
        reference=ewc,
        mutants={
            "the factor 1/2 is missing": (
                lambda theta, start, fisher, strength: 2 * ewc(theta, start, fisher, strength)
            ),
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
                lambda theta, start, fisher, strength: (
                    strength / 2 * (fisher * (theta.square() - start.square())).sum()
                )
            ),
            "this adds up first and squares the sum; square the distance of each weight": (
                lambda theta, start, fisher, strength: (
                    strength / 2 * (fisher * (theta - start)).sum().square()
                )
            ),
            "the strength is missing: strength / 2 stands in front of the sum": (
                lambda theta, start, fisher, strength: ewc(theta, start, fisher, 1.0)
            ),
        },
    )
)


# forgetting-replay ----------------------------------------------------------------------------------------

Rows = list[int]


def replay(new: Rows, old: Rows, share: float, rows: int, order: Rows) -> tuple[int, ...]:
    r"""The first rows of both, the nearest whole number to `share` of them old; the i-th to be seen is order[i]."""
    kept = round(share * rows)
    return _seen([*new[: rows - kept], *old[:kept]], order)


def _seen(mixed: Rows, order: Rows) -> tuple[int, ...]:
    return tuple(mixed[place] for place in order)


def _to_places(new: Rows, old: Rows, share: float, rows: int, order: Rows) -> tuple[int, ...]:
    unmixed = replay(new, old, share, rows, list(range(rows)))
    return tuple(row for _, row in sorted(zip(order, unmixed, strict=True)))


def _of_new(new: Rows, old: Rows, share: float, rows: int, order: Rows) -> tuple[int, ...]:
    fresh = round(rows / (1 + share))
    return _seen([*new[:fresh], *old[: rows - fresh]], order)


def _down(new: Rows, old: Rows, share: float, rows: int, order: Rows) -> tuple[int, ...]:
    kept = int(share * rows)
    return _seen([*new[: rows - kept], *old[:kept]], order)


def _secret_replay(draw: Draw) -> tuple[Rows, Rows, float, int, Rows]:
    while True:  # once to be rounded up, once down, and never in the middle
        share, rows = draw.real(0.1, 0.45), draw.whole(12, 40)
        rest = share * rows % 1
        if (0.55 < rest < 0.95) if draw.kind == 0 else (0.05 < rest < 0.45):
            break
    new, old = (draw.whole(100 * i, 100 * i + 50) for i in (1, 5))
    return list(range(new, new + rows + 4)), list(range(old, old + rows + 4)), share, rows, draw.order(rows)


REPLAY = register(
    Exercise(
        id="forgetting-replay",
        points=2,
        difficulty=2,
        minutes=10,
        hints=(
            "How many old rows are there? Round once, over all rows. The new ones are what is left.",
            "Put the first new rows and the first old ones into one list, and read it out in the given order.",
        ),
        secret=_secret_replay,
        reference=replay,
        mutants={
            "the old rows come on top of the budget; they take the place of new ones": (
                lambda new, old, share, rows, order: (*new[:rows], *old[: round(share * rows)])
            ),
            "the share is taken of the new rows here; it is the part of all rows that is old": _of_new,
            "the two are swapped: `share` is the part that is old": (
                lambda new, old, share, rows, order: replay(old, new, share, rows, order)
            ),
            "this rounds down; take the nearest whole number, with round": _down,
            "the rows are not shuffled: all old ones would come in the last batches": (
                lambda new, old, share, rows, order: replay(new, old, share, rows, list(range(rows)))
            ),
            "this puts row i at place order[i]; the i-th row to be seen is the one at place order[i]": (
                _to_places
            ),
            "these are the last old rows; take the first ones, as of the new": (
                lambda new, old, share, rows, order: replay(new, old[::-1], share, rows, order)
            ),
        },
        tolerance=0.0,
        kinds=2,
    )
)
