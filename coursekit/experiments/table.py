r"""The CSV of an experiment: one line a run, the same columns in every file of `data/evidence/` that holds answers.

| column | meaning |
|---|---|
| `arm`, `steps`, `rate`, `seed` | which run it is; all four 0 but the name where nothing trains |
| `parameters`, `seconds` | trainable parameters, the head with them; time of the run by the clock |
| `curve` | `step:validation accuracy`, joined by `;`; empty where training failed |
| `sentences`, `correct` | test sentences, and which were right: hexadecimal, the first sentence in the highest bit. `count:87` where an old file kept their number alone |
| `why` | why training failed |
| `margins` | optional: score of the right side's class 1 minus that of class 0 for each test sentence, base64 of float16 |
| `loss`, `memory`, `retention` | optional: mean training loss of the last steps; peak bytes; loss on held-out text of another domain, after minus before |

Further columns are kept as they are, as text (`Run.more`).
"""  # noqa: E501

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
import re
import socket
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from filelock import FileLock

from coursekit.errors import CourseError
from coursekit.files import replace_text

COLUMNS = ("arm", "steps", "rate", "seed", "parameters", "seconds", "curve", "sentences", "correct", "why")
OPTIONAL = ("margins", "loss", "memory", "retention")
#: In the place of the bits: only how many were right is known.
COUNT = "count:"


def state(arm: str, of: str) -> str:
    r"""The name of what `arm` trained, tested in another state, such as "robust, 2 skipped"."""
    return f"{arm}, {of}"


def few(arm: str, n: int) -> str:
    r"""The name of `arm` where it trains on `n` sentences only, which the seed draws: the same ones for every arm."""
    return f"{arm} with {n} examples"


def drawn(arm: str) -> int | None:
    r"""How many training sentences the seed draws for `arm`; None where it trains on all."""
    found = re.search(r" with (\d+) examples$", arm)
    return int(found[1]) if found else None


@dataclass(frozen=True, order=True)
class Cell:
    r"""One run: an arm, so many steps, a learning rate, a seed."""

    arm: str
    steps: int
    rate: float
    seed: int


@dataclass(frozen=True)
class Run:
    r"""What came of a cell. curve: (step, validation accuracy), empty where training failed. correct: which test
    sentences, in their order, were right. counted: only their number is known, and their order made up.
    """

    cell: Cell
    curve: tuple[tuple[int, float], ...]
    correct: tuple[bool, ...]
    parameters: int
    seconds: float
    why: str = ""
    margins: tuple[float, ...] = ()
    loss: float | None = None
    memory: float | None = None
    retention: float | None = None
    more: Mapping[str, str] = field(default_factory=dict)
    counted: bool = False

    @property
    def validation(self) -> float | None:
        r"""Validation accuracy at the end: of the last two points the mean, which halves the noise of one."""
        return statistics.fmean(value for _, value in self.curve[-2:]) if self.curve else None


def read_csv(path: Path) -> list[Run]:
    r"""The runs of a file."""
    try:
        return parse(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise CourseError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CourseError(f"{path} is no file of runs: it is not text") from error


def parse(text: str, path: Path) -> list[Run]:
    r"""The runs in a file's `text`; a last line without its end was torn and is left out.

    Raises CourseError, naming the line, for what is no run, and for another schema.
    """
    whole, found = text[: text.rfind("\n") + 1], []
    rows = csv.DictReader(io.StringIO(whole), strict=True)
    try:
        if whole and not set(COLUMNS) <= set(rows.fieldnames or ()):
            missing = ", ".join(c for c in COLUMNS if c not in (rows.fieldnames or ()))
            raise CourseError(f"{path} is no file of runs: it has no column {missing}")
        for row in rows:
            try:
                found.append(_run(row))
            except (TypeError, ValueError, KeyError) as error:
                raise CourseError(
                    f"line {rows.line_num} of {path} is no run ({error}): mend or delete that line"
                ) from error
    except csv.Error as error:
        raise CourseError(f"line {rows.line_num} of {path} is no run ({error}): mend or delete it") from error
    return found


def written(runs: Iterable[Run]) -> str:
    r"""The file's text, the runs in the order of their cells, so that it does not depend on who was faster."""
    runs = sorted(runs, key=lambda run: run.cell)
    lines = [_line(run) for run in runs]
    further = [name for name in OPTIONAL if any(line[name] for line in lines)]
    further += sorted({name for run in runs for name in run.more})
    out = io.StringIO()
    rows = csv.DictWriter(out, [*COLUMNS, *further], restval="", extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    rows.writerows(lines)
    return out.getvalue()


class Store:
    r"""The runs of one file, added to by several processes, whole or not at all.

    A process that takes a cell says so in a folder of claims beside the file, so that no cell is run twice; a claim
    whose process is gone is void. Links are followed first: one file has one lock, whatever it is called.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).resolve()
        self.claims = self.path.with_name(f".{self.path.name}.claims")
        try:
            self.claims.mkdir(parents=True, exist_ok=True)
            (self.claims / ".lock").touch()
        except OSError as error:
            raise CourseError(f"cannot write {self.path}: {error.strerror}") from error
        self._lock = FileLock(self.claims / ".lock")

    def runs(self) -> list[Run]:
        r"""All runs so far."""
        with self._lock:
            return self._read()

    def add(self, runs: Sequence[Run]) -> None:
        r"""Add runs, and give their claims back. Of two runs of one cell the first stays."""
        with self._lock:
            there = self._read()
            known = {run.cell for run in there}
            if new := [run for run in runs if run.cell not in known]:
                try:
                    replace_text(self.path, written([*there, *new]))
                except OSError as error:
                    raise CourseError(
                        f"cannot write {self.path}: {error.strerror}; what it held is there still, and the same "
                        "command goes on"
                    ) from error
        for run in runs:
            self.release(run.cell)

    def claim(self, cells: Iterable[Cell]) -> Cell | None:
        r"""The first of `cells` that nobody is at work on, now this process's; None where all are taken."""
        with self._lock:
            done = {run.cell for run in self._read()}
            for cell in cells:
                if cell in done or self._taken(cell):
                    continue
                try:
                    self._claim_of(cell).write_text(json.dumps([socket.gethostname(), os.getpid(), _born(os.getpid())]))
                except OSError as error:
                    raise CourseError(f"cannot write beside {self.path}: {error.strerror}") from error
                return cell
        return None

    def release(self, cell: Cell) -> None:
        r"""Nobody is at work on `cell` any more."""
        self._claim_of(cell).unlink(missing_ok=True)

    def _read(self) -> list[Run]:
        return read_csv(self.path) if self.path.exists() else []

    def _taken(self, cell: Cell) -> bool:
        try:
            host, process, born = json.loads(self._claim_of(cell).read_text())
        except (OSError, ValueError):
            return False
        return host != socket.gethostname() or _born(process) == born

    def _claim_of(self, cell: Cell) -> Path:
        name = re.sub(r"[^\w.,=% -]", "_", cell.arm)
        return self.claims / f"{name}-{cell.steps}-{cell.rate:g}-{cell.seed}.json"


def packed(correct: Sequence[bool]) -> str:
    r"""Yes and no of each sentence as hexadecimal digits, the first sentence in the highest bit."""
    bits = "".join("01"[bool(one)] for one in correct)
    return f"{int(bits, 2):0{-(-len(bits) // 4)}x}" if bits else ""


def unpacked(text: str, n: int) -> tuple[bool, ...]:
    r"""What `packed` wrote of `n` sentences, or the first so many of `COUNT`."""
    if text.startswith(COUNT):
        right = _whole(text.removeprefix(COUNT), "correct")
        if right > n:
            raise ValueError(f"{right} right answers to {n} sentences")
        return tuple(i < right for i in range(n))
    if not n:
        return ()
    bits = f"{int(text, 16):0{n}b}"
    if len(bits) != n or text[0] in "+-":
        raise ValueError(f"{len(bits)} answers where there are {n} sentences")
    return tuple(bit == "1" for bit in bits)


def _line(run: Run) -> dict[str, str]:
    cell = run.cell
    answers = f"{COUNT}{sum(run.correct)}" if run.counted else packed(run.correct)
    values = (
        cell.arm, cell.steps, f"{cell.rate:g}", cell.seed, run.parameters, f"{run.seconds:.1f}",
        ";".join(f"{step}:{value:.4f}" for step, value in run.curve), len(run.correct), answers, run.why,
        base64.b64encode(np.asarray(run.margins, dtype="<f2").tobytes()).decode(),
        *("" if value is None else f"{value:.6g}" for value in (run.loss, run.memory, run.retention)),
    )  # fmt: skip
    return dict(zip((*COLUMNS, *OPTIONAL), map(str, values), strict=True)) | dict(run.more)


def _run(row: dict[str, str]) -> Run:
    if None in row or None in row.values():
        raise ValueError("it has another number of columns than the first line")
    cell = Cell(row["arm"], _whole(row["steps"], "steps"), _number(row["rate"], "rate"), _whole(row["seed"], "seed"))
    points = [point.split(":") for point in row["curve"].split(";") if point]
    curve = tuple((_whole(step, "curve"), _number(value, "curve")) for step, value in points)
    correct = unpacked(row["correct"], _whole(row["sentences"], "sentences"))
    margins = np.frombuffer(base64.b64decode(row.get("margins") or "", validate=True), dtype="<f2")
    if margins.size not in (0, len(correct)):
        raise ValueError(f"{margins.size} margins where there are {len(correct)} sentences")
    return Run(
        cell, curve, correct, _whole(row["parameters"], "parameters"), _number(row["seconds"], "seconds"),
        row["why"], tuple(map(float, margins)),
        *(float(row[name]) if row.get(name) else None for name in OPTIONAL[1:]),
        {name: value for name, value in row.items() if name not in (*COLUMNS, *OPTIONAL)},
        row["correct"].startswith(COUNT),
    )  # fmt: skip


def _born(process: int) -> float | None:
    r"""When a process began, so that another one with its number is not taken for it; None where there is none."""
    with suppress(psutil.Error):
        return psutil.Process(process).create_time()
    return None


def _whole(text: str, name: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{name} is {text!r}")
    return int(text)


def _number(text: str, name: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {text!r}")
    return value
