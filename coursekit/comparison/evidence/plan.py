r"""What is left to be run: the search for each arm's learning rate and its number of steps, as a pure function.

An arm goes through these states, each a question that the runs so far answer:

    every rate tried with the first seed? ── no ──> run what is missing
       │ yes
    those that are not far behind tried with every seed? ── no ──> run what is missing
       │ yes
    best mean at an end of the rates? ── yes ──> one more rate beyond that end
       │ no
    twice the steps tried at the best rate, with every seed? ── no ──> run what is missing
       │ yes
    did they bring something? ── yes, and doublings are left ──> twice as many again
       │ no
    settled

Whether a method is trained to the end is asked of a longer run, and not of the shape of a curve: the learning rate
falls to zero at the end of every run, so that every curve rises a little while it falls, and then is flat.

Only validation sentences are looked at. "Best" is the mean over the seeds; a rate at which one seed fails is worse
than any that works. A rate that is far behind with the first seed gets no others (a race: Maron and Moore, 1994):
seeds are for telling good rates apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from coursekit.comparison import rates
from coursekit.comparison.evidence.grid import Arm, Grid

#: Twice the steps brought nothing where the mean validation accuracy over the seeds rose by no more than this.
NOTHING = 0.01
#: A rate this far behind the best with the first seed (share of validation sentences) is out: more than seeds differ.
BEHIND = 0.03
#: The best of fewer cannot have a worse neighbour on either side.
FEWEST_RATES = 3


@dataclass(frozen=True, order=True)
class Cell:
    r"""One run: an arm, a learning rate, so many steps, a seed."""

    arm: str
    steps: int
    rate: float
    seed: int


@dataclass(frozen=True)
class Run:
    r"""What came of a cell. curve: (step, validation accuracy) in the order of the steps, empty where training failed.
    correct: which test sentences, in their order, were right.
    """

    cell: Cell
    curve: tuple[tuple[int, float], ...]
    correct: tuple[bool, ...]
    parameters: int
    seconds: float
    why: str = ""

    @property
    def validation(self) -> float | None:
        r"""Validation accuracy at the end: of the last two points the mean, which halves the noise of one."""
        return statistics.fmean(value for _, value in self.curve[-2:]) if self.curve else None


@dataclass(frozen=True)
class Settled:
    r"""How an arm was decided. steps, runs: those of its search, one run a seed. gain: of mean
    validation accuracy by the last doubling of the steps, None where they were not doubled or a run failed. open:
    whether the best rate still is at an end of the grid of rates itself.
    """

    arm: str
    rate: float
    steps: int
    gain: float | None
    open: bool
    runs: tuple[Run, ...]

    @property
    def flat(self) -> bool:
        r"""Whether twice the steps brought nothing."""
        return self.gain is not None and self.gain <= NOTHING


def next_cells(grid: Grid, runs: Iterable[Run]) -> list[Cell]:
    r"""Cells that can be run now, none of which depends on another; [] when all arms are settled. Those of longer runs
    come last: a grid that is stopped has all arms rather than a few that are exact.
    """
    runs = list(runs)
    cells = [
        (cell, cell.steps / (arm.steps or grid.steps))
        for arm in grid.arms
        for cell in _of(grid, arm, runs)[0]
    ]
    return [cell for cell, _ in sorted(cells, key=lambda pair: pair[1])]


def settled(grid: Grid, runs: Iterable[Run]) -> dict[str, Settled]:
    r"""The arms that are decided, by name."""
    runs = list(runs)
    found = {arm.name: _of(grid, arm, runs)[1] for arm in grid.arms}
    return {name: one for name, one in found.items() if one is not None}


def search_is_over(runs: Iterable[Run], seeds: Sequence[int]) -> bool:
    r"""Whether the search for the learning rate of one arm is at an end, by its runs alone: longer ones, which are at
    its best rate, are no part of it. For a reader who has the file and not its grid.
    """
    runs = list(runs)
    steps = min((run.cell.steps for run in runs), default=0)
    there = {run.cell: run for run in runs if run.cell.steps == steps}
    tried = tuple(sorted({cell.rate for cell in there}))
    if len(tried) < FEWEST_RATES:
        return False
    arm = Arm(runs[0].cell.arm, None, tried)
    grid = Grid("one arm", (arm,), arm.name, tuple(seeds), steps=max(steps, 6))
    return not _search(grid, arm, there, steps)[0]


def mean_curve(runs: Sequence[Run]) -> list[tuple[int, float]]:
    r"""The curve of validation accuracy, the mean over the seeds at each step; [] where a run failed."""
    if not runs or any(not run.curve for run in runs):
        return []
    return [
        (points[0][0], statistics.fmean(v for _, v in points))
        for points in zip(*(r.curve for r in runs), strict=True)
    ]


def _of(grid: Grid, arm: Arm, runs: list[Run]) -> tuple[list[Cell], Settled | None]:
    r"""What the arm still needs, or how it is settled."""
    there = {run.cell: run for run in runs if run.cell.arm == arm.name}
    first = steps = arm.steps or grid.steps
    cells, rate = _search(grid, arm, there, steps)
    if cells:
        return cells, None
    gain, reached = None, _mean(there, steps, rate, grid.seeds)
    for _ in range(grid.doublings_of(arm) if reached is not None else 0):
        if cells := _left(there, arm.name, 2 * steps, [rate], grid.seeds):
            return cells, None
        steps, before, reached = 2 * steps, reached, _mean(there, 2 * steps, rate, grid.seeds)
        gain = None if reached is None or before is None else reached - before
        if gain is None or gain <= NOTHING:
            break
    own = tuple(there[Cell(arm.name, first, rate, seed)] for seed in grid.seeds)
    return [], Settled(arm.name, rate, first, gain, rate in (rates.GRID[0], rates.GRID[-1]), own)


def _search(grid: Grid, arm: Arm, there: Mapping[Cell, Run], steps: int) -> tuple[list[Cell], float]:
    r"""What the search for the arm's learning rate still needs, or [] and the rate."""
    tries, left = list(arm.rates), partial(_left, there, arm.name, steps)
    while True:
        if cells := left(tries, grid.seeds[:1]):
            return cells, 0.0
        means = {rate: _mean(there, steps, rate, grid.seeds[:1]) for rate in tries}
        if (beyond := rates.beyond(means)) is not None:  # before other seeds are spent on an edge
            tries.append(beyond)
            continue
        top = means[rates.best(means)]
        if cells := left((r for r in tries if top is None or (means[r] or 0.0) > top - BEHIND), grid.seeds):
            return cells, 0.0
        means = {
            r: _mean(there, steps, r, grid.seeds[:1] if left([r], grid.seeds) else grid.seeds) for r in tries
        }
        best = rates.best(means)
        if cells := left([best], grid.seeds):  # the leaders fell behind it with their other seeds
            return cells, 0.0
        if (beyond := rates.beyond(means)) is None:
            return [], best
        tries.append(beyond)


def _left(
    there: Mapping[Cell, Run], arm: str, steps: int, rates: Iterable[float], seeds: Sequence[int]
) -> list[Cell]:
    cells = [Cell(arm, steps, rate, seed) for rate in rates for seed in seeds]
    return [cell for cell in cells if cell not in there]


def _mean(there: Mapping[Cell, Run], steps: int, rate: float, seeds: Sequence[int]) -> float | None:
    r"""Validation accuracy, the mean over those seeds that were run; None where one failed."""
    values = [
        run.validation
        for cell, run in there.items()
        if (cell.steps, cell.rate) == (steps, rate) and cell.seed in seeds
    ]
    return None if None in values else statistics.fmean(v for v in values if v is not None)
