r"""What is left to be run: the search for each arm's learning rate and its number of steps, as a pure function.

An arm goes through these states, each a question that the runs so far answer:

    every rate tried with the first seed? ── no ──> run what is missing
       │ yes
    those that are not far behind tried with every seed? ── no ──> run what is missing
       │ yes
    best mean at an end of the rates? ── yes ──> one more rate beyond that end
       │ no
    its validation curve flat? ── no, and steps are left ──> twice the steps, at the best rate and its neighbours
       │ yes
    settled

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

#: A curve is flat where its last third is on average not this much above the third before it (share of sentences).
FLAT = 0.005
#: A rate this far behind the best with the first seed (share of validation sentences) is out: more than seeds differ.
BEHIND = 0.06


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
    r"""How an arm was decided. flat: whether the curve was, or the steps ran out before. open: whether the best rate
    still is at an end of the grid of rates itself.
    """

    arm: str
    rate: float
    steps: int
    flat: bool
    open: bool
    runs: tuple[Run, ...]


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


def is_flat(curve: Sequence[tuple[int, float]]) -> bool:
    r"""Whether the last third of a validation curve is no more than `FLAT` above the third before it."""
    values = [value for _, value in curve]
    third = max(1, len(values) // 3)
    if len(values) < 2 * third:
        return False
    return statistics.fmean(values[-third:]) - statistics.fmean(values[-2 * third : -third]) <= FLAT


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
    first = steps = arm.steps or grid.steps
    tries = list(arm.rates)
    while True:
        there = {run.cell: run for run in runs if run.cell.arm == arm.name and run.cell.steps == steps}

        left = partial(_left, there, arm.name, steps)

        if cells := left(tries, grid.seeds[:1]):
            return cells, None
        means = {rate: _mean(there, rate, grid.seeds[:1]) for rate in tries}
        if (beyond := rates.beyond(means)) is not None:  # before other seeds are spent on an edge
            tries.append(beyond)
            continue
        top = means[rates.best(means)]
        if cells := left((r for r in tries if top is None or (means[r] or 0.0) > top - BEHIND), grid.seeds):
            return cells, None
        means = {r: _mean(there, r, grid.seeds[:1] if left([r], grid.seeds) else grid.seeds) for r in tries}
        best = rates.best(means)
        if cells := left([best], grid.seeds):  # the leaders fell behind it with their other seeds
            return cells, None
        if (beyond := rates.beyond(means)) is not None:
            tries.append(beyond)
            continue
        own = tuple(there[Cell(arm.name, steps, best, seed)] for seed in grid.seeds)
        flat = is_flat(mean_curve(own))
        if not flat and 2 * steps <= first * 2**grid.doublings and means[best] is not None:
            steps, tries = 2 * steps, rates.around(best)
            continue
        at_an_end = best in (rates.GRID[0], rates.GRID[-1])
        return [], Settled(arm.name, best, steps, flat, at_an_end, own)


def _left(
    there: Mapping[Cell, Run], arm: str, steps: int, rates: Iterable[float], seeds: Sequence[int]
) -> list[Cell]:
    cells = [Cell(arm, steps, rate, seed) for rate in rates for seed in seeds]
    return [cell for cell in cells if cell not in there]


def _mean(there: dict[Cell, Run], rate: float, seeds: Sequence[int]) -> float | None:
    values = [run.validation for cell, run in there.items() if cell.rate == rate and cell.seed in seeds]
    return None if None in values else statistics.fmean(v for v in values if v is not None)
