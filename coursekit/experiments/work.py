r"""Carrying a grid out: one process takes one cell after the other; several share a grid by its file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from coursekit.experiments.recipe import Grid
from coursekit.experiments.run import Unfit
from coursekit.experiments.search import next_cells, settled
from coursekit.experiments.table import Cell, Run, Store

#: Seconds between two looks whether the others have finished what the next cells depend on.
PATIENCE = 5.0

#: (what the arm trains, the cell) -> the run, and those of what else was asked of the trained model.
Carry = Callable[[Any, Cell], Sequence[Run]]


def work(grid: Grid, store: Store, carry: Carry, say: Callable[[str], Any] = print) -> Grid:
    r"""Run cells of `grid` until all its arms are settled; the grid without arms that do not fit the model."""
    while True:
        cells = next_cells(grid, store.runs())
        if not cells:
            return grid
        cell = store.claim(cells)
        if cell is None:  # the others are at work on all that can be run now
            time.sleep(PATIENCE)
            continue
        try:
            found = carry(grid.arm(cell.arm).recipe, cell)
        except Unfit as error:
            store.release(cell)
            say(f"{cell.arm} is left out: {error}")
            rest = tuple(arm for arm in grid.arms if arm.name != cell.arm)
            if not rest:
                raise
            first = rest[0].name if grid.reference == cell.arm else grid.reference
            grid = replace(grid, arms=rest, reference=first)
            continue
        except BaseException:
            store.release(cell)
            raise
        store.add(found)
        say(f"{log_line(found[0])}; {progress(grid, store.runs())}")


def log_line(run: Run) -> str:
    r"""What a run found, for the log."""
    cell = run.cell
    found = f"validation {run.validation:.3f}" if run.validation is not None else "done"
    found = f"failed: {run.why}" if run.why else found
    what = f"{cell.arm}, {cell.steps} steps, learning rate {cell.rate:g}, seed {cell.seed}"
    return f"{what}: {found}, {run.seconds:.0f} s"


def progress(grid: Grid, runs: Sequence[Run], processes: int = 1) -> str:
    r"""How far the grid is, and about how long the rest takes, at the mean time of a step. Searches that go beyond the
    rates given, and longer runs, come on top.
    """
    left, done = next_cells(grid, runs), len(settled(grid, runs))
    runs = [run for run in runs if run.cell.steps]  # the constant answer trains nothing
    if not left:
        return f"all {len(grid.arms)} arms settled, {len(runs)} runs"
    rest = ""
    if runs:
        per_step = statistics.fmean(run.seconds / run.cell.steps for run in runs)
        rest = f", {per_step * sum(c.steps for c in left) / 60 / processes:.0f} min or more left"
    return f"{done} of {len(grid.arms)} arms settled, {len(runs)} runs made, {len(left)} to go{rest}"
