r"""The runs of a grid in one CSV file: a line a run, added by several processes, whole or not at all.

Test answers are kept sentence by sentence, as one hexadecimal number a run: what an interval is drawn from. A process
that takes a cell says so in a folder of claims beside the file, so that no cell is run twice; a claim whose process is
gone is void.
"""

from __future__ import annotations

import csv
import io
import json
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock

from coursekit.comparison.evidence.plan import Cell, Run
from coursekit.errors import CourseError
from coursekit.files import replace_text

COLUMNS = ("arm", "steps", "rate", "seed", "parameters", "seconds", "curve", "sentences", "correct", "why")


class Store:
    r"""The runs in `path`, and in the folder `claims`, outside version control, who is at work on which cell."""

    def __init__(self, path: str | Path, claims: str | Path):
        self.path, self.claims = Path(path), Path(claims)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.claims.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CourseError(f"cannot write {self.path}: {error.strerror}") from error
        self._lock = FileLock(self.claims / ".lock")

    def runs(self) -> list[Run]:
        r"""All runs so far. A last line without its end was torn and is left out."""
        with self._lock:
            return self._read()

    def add(self, run: Run) -> None:
        r"""Add a run, and give its claim back. Of two runs of one cell the first stays."""
        with self._lock:
            there = self._read()
            if all(run.cell != other.cell for other in there):
                self._write([*there, run])
        self.release(run.cell)

    def claim(self, cells: Iterable[Cell]) -> Cell | None:
        r"""The first of `cells` that nobody is at work on, now this process's; None where all are taken."""
        with self._lock:
            done = {run.cell for run in self._read()}
            for cell in cells:
                if cell in done or self._taken(cell):
                    continue
                self._claim_of(cell).write_text(
                    json.dumps([socket.gethostname(), os.getpid(), _born(os.getpid())])
                )
                return cell
        return None

    def release(self, cell: Cell) -> None:
        r"""Nobody is at work on `cell` any more."""
        self._claim_of(cell).unlink(missing_ok=True)

    def _taken(self, cell: Cell) -> bool:
        try:
            host, process, born = json.loads(self._claim_of(cell).read_text())
        except (OSError, ValueError):
            return False
        return host != socket.gethostname() or _born(process) == born

    def _claim_of(self, cell: Cell) -> Path:
        return self.claims / f"{cell.arm}-{cell.steps}-{cell.rate:g}-{cell.seed}.json"

    def _read(self) -> list[Run]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise CourseError(f"cannot read {self.path}: {error}") from error
        return parse(text, self.path)

    def _write(self, runs: Sequence[Run]) -> None:
        try:
            replace_text(self.path, written(runs))
        except OSError as error:
            raise CourseError(f"cannot write {self.path}: {error.strerror}") from error


def written(runs: Iterable[Run]) -> str:
    r"""The file's text, the runs in the order of their cells, so that it does not depend on who was faster."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)
    for run in sorted(runs, key=lambda run: run.cell):
        cell, curve = run.cell, ";".join(f"{step}:{value:.4f}" for step, value in run.curve)
        rows.writerow(
            [cell.arm, cell.steps, f"{cell.rate:g}", cell.seed, run.parameters, f"{run.seconds:.1f}", curve,
             len(run.correct), packed(run.correct), run.why]
        )  # fmt: skip
    return out.getvalue()


def parse(text: str, path: Path) -> list[Run]:
    r"""The runs in a file's `text`. Raises CourseError, naming the line, for what is no run."""
    whole, found = text[: text.rfind("\n") + 1], []
    rows = csv.DictReader(io.StringIO(whole))
    if whole and tuple(rows.fieldnames or ()) != COLUMNS:
        raise CourseError(f"{path} is no file of evidence: its columns must be {', '.join(COLUMNS)}")
    for number, row in enumerate(rows, start=2):
        try:
            cell = Cell(row["arm"], int(row["steps"]), float(row["rate"]), int(row["seed"]))
            points = [point.split(":") for point in row["curve"].split(";") if point]
            curve = tuple((int(step), float(value)) for step, value in points)
            correct = unpacked(row["correct"], int(row["sentences"]))
            found.append(Run(cell, curve, correct, int(row["parameters"]), float(row["seconds"]), row["why"]))
        except (TypeError, ValueError, KeyError) as error:
            raise CourseError(f"line {number} of {path} is no run: {error}") from error
    return found


def packed(correct: Sequence[bool]) -> str:
    r"""Yes and no of each sentence as hexadecimal digits, the first sentence in the highest bit."""
    bits = "".join("01"[bool(one)] for one in correct)
    return f"{int(bits, 2):0{-(-len(bits) // 4)}x}" if bits else ""


def unpacked(text: str, n: int) -> tuple[bool, ...]:
    r"""What `packed` wrote of `n` sentences."""
    if not n:
        return ()
    bits = f"{int(text, 16):0{n}b}"
    if len(bits) != n:
        raise ValueError(f"{len(bits)} answers where there are {n} sentences")
    return tuple(bit == "1" for bit in bits)


def _born(process: int) -> float | None:
    r"""When a process began, so that another one with its number is not taken for it; None where there is none."""
    with suppress(psutil.Error):
        return psutil.Process(process).create_time()
    return None
