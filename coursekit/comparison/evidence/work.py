r"""Carrying a grid out: one process takes one cell after the other; several share a grid by its file.

Each process uses one thread: two processes of one thread do about a third more on two cores than one of two threads,
since small matrices keep no second thread busy.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from coursekit.comparison.evidence.grid import Grid
from coursekit.comparison.evidence.plan import Cell, Run, next_cells, settled
from coursekit.comparison.evidence.store import Store

#: Seconds between two looks whether the others have finished what the next cells depend on.
PATIENCE = 5.0

#: (what the arm trains, the cell) -> the run, and those of what else was asked of the trained model.
Carry = Callable[[Any, Cell], Sequence[Run]]


def work(grid: Grid, store: Store, carry: Carry, say: Callable[[str], Any] = print) -> int:
    r"""Run cells of `grid` until all its arms are settled; the number of runs made here."""
    made = 0
    while True:
        runs = store.runs()
        cells = next_cells(grid, runs)
        if not cells:
            return made
        cell = store.claim(cells)
        if cell is None:  # the others are at work on all that can be run now
            time.sleep(PATIENCE)
            continue
        try:
            found = carry(grid.arm(cell.arm).make, cell)
        except BaseException:
            store.release(cell)
            raise
        for run in reversed(found):  # the cell's own last: when it is there, all of them are
            store.add(run)
        made += 1
        say(f"{told(found[0])}; {progress(grid, store.runs())}")


def told(run: Run) -> str:
    r"""One line about a run."""
    cell = run.cell
    found = f"validation {run.validation:.3f}" if run.validation is not None else f"failed: {run.why}"
    what = f"{cell.arm}, {cell.steps} steps, learning rate {cell.rate:g}, seed {cell.seed}"
    return f"{what}: {found}, {run.seconds:.0f} s"


def progress(grid: Grid, runs: Sequence[Run], processes: int = 1) -> str:
    r"""How far the grid is, and about how long the rest takes: what is known to be left, at the mean time of a run of
    so many steps. Searches that go on beyond the rates given, and longer runs, come on top.
    """
    left, done = next_cells(grid, runs), len(settled(grid, runs))
    runs = [run for run in runs if run.cell.steps]  # the constant answer trains nothing
    per_step = statistics.fmean(run.seconds / run.cell.steps for run in runs) if runs else None
    if not left:
        return f"all {len(grid.arms)} arms settled, {len(runs)} runs"
    rest = (
        ""
        if per_step is None
        else f", {per_step * sum(c.steps for c in left) / 60 / processes:.0f} min or more left"
    )
    return f"{done} of {len(grid.arms)} arms settled, {len(runs)} runs made, {len(left)} to go{rest}"


@dataclass(frozen=True)
class Workers:
    r"""Processes that carry a grid out side by side; they end with the one that began them."""

    command: Sequence[str]
    processes: int
    environment: dict[str, str]

    def run(self) -> int:
        r"""Start them and wait; the number of those that failed."""
        started = [
            subprocess.Popen([*self.command], env=self.environment | {"OMP_NUM_THREADS": "1"})
            for _ in range(self.processes)
        ]
        try:
            return sum(process.wait() != 0 for process in started)
        finally:
            for process in started:
                if process.poll() is None:
                    process.terminate()
            for process in started:
                process.wait()
