r"""Which run comes next: the one search for learning rates, seeds and longer runs, a pure function.

Each question is answered by the runs there are, and asks for those that it lacks:

    every rate tried with the first seed?
    best of them at an end of the rates?  -> one more beyond it, before other seeds are spent on an edge
    those that are not far behind tried with every seed?
    the best one's two neighbours too, also a neighbour far behind (a cliff: how narrow is the peak?)
    best mean at an end of the rates?     -> one more beyond it
    more seeds at the best rate, where the grid says so
    twice the steps, at the best rate and at the next lower one: did they bring something? -> twice as many again

"Best" is the mean over the seeds on validation data; a rate at which one seed fails is worse than any that works. A
rate that is far behind with the first seed gets no others (a race: Maron and Moore, 1994): seeds are for telling good
rates apart. Whether a method is trained to the end is asked of a longer run, and not of the shape of a curve: the
learning rate falls to zero at the end of every run, so that every curve is flat there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from coursekit.experiments.recipe import LADDER, Arm, Grid
from coursekit.experiments.table import Cell, Run

#: Twice the steps brought nothing where the validation accuracy rose by no more than this.
NOTHING = 0.01


@dataclass(frozen=True)
class Settled:
    r"""How an arm was decided. steps, runs: those of its search, one run a seed. gain: by the last doubling of the
    steps, None where they were not doubled or a run failed. open: whether the best rate is at an end of the ladder.
    """

    arm: str
    rate: float
    steps: int
    gain: float | None
    open: bool
    runs: tuple[Run, ...]


def next_cells(grid: Grid, runs: Iterable[Run]) -> list[Cell]:
    r"""Cells that can be run now, none of which depends on another; [] when all arms are settled. Those of longer runs
    come last: a grid that is stopped has all arms rather than a few that are exact.
    """
    runs = list(runs)
    cells = [
        (cell, cell.steps / max(1, grid.steps if arm.steps is None else arm.steps))
        for arm in grid.arms
        for cell in _of(grid, arm, runs)[0]
    ]
    return [cell for cell, _ in sorted(cells, key=lambda pair: pair[1])]


def settled(grid: Grid, runs: Iterable[Run]) -> dict[str, Settled]:
    r"""The arms that are decided, by name."""
    runs = list(runs)
    found = {arm.name: _of(grid, arm, runs)[1] for arm in grid.arms}
    return {name: one for name, one in found.items() if one is not None}


def best(tried: Mapping[float, float | None]) -> float:
    r"""The rate with the highest mean; of several, the lowest. None: training failed."""
    # To nine digits: two means of as many right answers differ in their last bit by the order of the sum alone.
    means = {rate: -math.inf if mean is None else round(mean, 9) for rate, mean in tried.items()}
    return max(sorted(means), key=means.__getitem__)


def beyond(tried: Mapping[float, float | None]) -> float | None:
    r"""The next rate of the ladder, where the best of those `tried` is the lowest or highest of them; None where it
    lies within, or at an end of the ladder.
    """
    top = best(tried)
    if top == min(tried):
        return max((rate for rate in LADDER if rate < top), default=None)
    if top == max(tried):
        return min((rate for rate in LADDER if rate > top), default=None)
    return None


class _Arm:
    r"""The runs of one arm, and what is asked of them."""

    def __init__(self, grid: Grid, arm: Arm, runs: Sequence[Run]):
        self.grid, self.arm, self.seeds = grid, arm, arm.seeds or grid.seeds
        self.there = {run.cell: run for run in runs if run.cell.arm == arm.name}

    def left(self, steps: int, rates: Iterable[float], seeds: Sequence[int]) -> list[Cell]:
        cells = [Cell(self.arm.name, steps, rate, seed) for rate in rates for seed in seeds]
        return [cell for cell in cells if cell not in self.there]

    def mean(self, steps: int, rate: float) -> float | None:
        r"""What the runs reached, the mean over the search's seeds where all of them ran, else of the first; None
        where one failed.
        """
        seeds = self.seeds[:1] if self.left(steps, [rate], self.seeds) else self.seeds
        values = [self.grid.judge(self.there[Cell(self.arm.name, steps, rate, seed)]) for seed in seeds]
        return None if None in values else statistics.fmean(v for v in values if v is not None)

    def first(self, steps: int, rate: float) -> float | None:
        return self.grid.judge(self.there[Cell(self.arm.name, steps, rate, self.seeds[0])])

    def search(self, steps: int) -> tuple[list[Cell], float]:
        r"""What the search for the learning rate still needs, or [] and the rate."""
        tries, seeds = sorted(set(self.arm.rates)), self.seeds
        while True:
            if cells := self.left(steps, tries, seeds[:1]):
                return cells, 0.0
            firsts = {rate: self.first(steps, rate) for rate in tries}
            if self.arm.grows and len(tries) > 1 and (more := beyond(firsts)) is not None:
                tries = sorted([*tries, more])
                continue
            top = firsts[best(firsts)]
            near = [
                rate for rate, value in firsts.items()
                if top is None or (value is not None and value > top - self.grid.behind)
            ]  # fmt: skip
            if cells := self.left(steps, near, seeds):
                return cells, 0.0
            means = {rate: self.mean(steps, rate) for rate in tries}
            found = best(means)
            at = tries.index(found)
            if cells := self.left(steps, tries[max(0, at - 1) : at + 2], seeds):
                return cells, 0.0
            more = beyond(means) if self.arm.grows and len(tries) > 1 else None
            if more is None:
                return [], found
            tries = sorted([*tries, more])


def _of(grid: Grid, arm: Arm, runs: Sequence[Run]) -> tuple[list[Cell], Settled | None]:
    r"""What the arm still needs, or how it is settled."""
    if arm.like is not None:
        if (other := _of(grid, grid.arm(arm.like), runs)[1]) is None:
            return [], None
        arm = replace(arm, rates=(other.rate,), like=None)
    own, steps = _Arm(grid, arm, runs), grid.steps if arm.steps is None else arm.steps
    cells, rate = own.search(steps)
    many = [*own.seeds]
    if arm.seeds is None:
        many = [*many, *(seed for seed in range(grid.best_seeds) if seed not in many)]
        many = many[: max(grid.best_seeds, len(grid.seeds))]
    if cells := cells or own.left(steps, [rate], many):
        return cells, None
    found = Settled(
        arm.name, rate, steps, None, len(arm.rates) > 1 and rate in (LADDER[0], LADDER[-1]),
        tuple(own.there[Cell(arm.name, steps, rate, seed)] for seed in many),
    )  # fmt: skip
    gain, reached, at = None, own.mean(steps, rate), rate
    for _ in range((grid.doublings if arm.doublings is None else arm.doublings) if reached is not None else 0):
        lower = max((one for one in LADDER if one < at), default=at)
        steps *= 2
        if cells := own.left(steps, sorted({lower, at}), own.seeds):
            return cells, None
        means = {one: own.mean(steps, one) for one in (lower, at)}
        at = best(means)
        before, reached = reached, means[at]
        gain = None if reached is None or before is None else reached - before
        if gain is None or gain <= NOTHING:
            break
    return [], Settled(found.arm, found.rate, found.steps, gain, found.open, found.runs)
