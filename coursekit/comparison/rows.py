r"""One row a method from the runs of a comparison, and such rows as a small table in a file."""

from __future__ import annotations

import csv
import io
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.experiments.results import Results
from coursekit.experiments.table import Run
from coursekit.files import replace_text
from coursekit.memory.breakdown import MB
from coursekit.notebook.tables import Table

#: Categories of memory in the order of `Breakdown.rows`, and the most that is alive at once.
MEMORY = ("weights", "master", "gradients", "optimizer", "activations", "peak")


@dataclass(frozen=True)
class Row:
    r"""A method over its seeds.

    trained, head: parameters. storage_bytes: what `save` writes for a trained task. weights … peak: bytes of one step,
    measured; predicted_peak: by the memory model, None where it does not know the method, and on a base in 16 bits.
    step_seconds, step_ratio: median over the seeds; the ratio is to full fine-tuning. accuracy: mean over the seeds;
    sd: their sample standard deviation, None for one seed; lowest, highest: of the seeds. sentences: tested, the same
    for every run.
    """

    method: str
    family: str
    settings: str
    lr: float
    seeds: int
    trained: int
    head: int
    storage_bytes: int
    weights: int
    master: int
    gradients: int
    optimizer: int
    activations: int
    peak: int
    predicted_peak: int | None
    step_seconds: float
    step_ratio: float
    accuracy: float
    sd: float | None
    lowest: float
    highest: float
    sentences: int
    majority: float
    task: str
    model: str
    steps: int
    batch_size: int
    device: str
    dtype: str
    threads: int
    torch: str
    transformers: str


def summary(runs: Sequence[Run]) -> list[Row]:
    r"""One row a method, in the order of the runs, at the learning rate that is best on validation sentences. Methods
    of which a seed failed at it are left out: a mean over the seeds that went well would flatter them.
    """
    return [_row(own) for own in Results("", tuple(runs)).arms.values()]


def _row(own: Sequence[Run]) -> Row:
    first, accuracy = own[0], [statistics.fmean(run.correct) for run in own]
    measured: dict[str, Any] = {
        field.name: _value(field, first.more[field.name]) for field in fields(Row) if field.name in first.more
    }
    for name in ("storage_bytes", *MEMORY):
        measured[name] = max(int(run.more[name]) for run in own)
    for name in ("step_seconds", "step_ratio"):
        measured[name] = statistics.median(float(run.more[name]) for run in own)
    return Row(**measured | {
        "method": first.cell.arm, "lr": first.cell.rate, "steps": first.cell.steps, "seeds": len(own),
        "sentences": len(first.correct), "accuracy": statistics.fmean(accuracy),
        "sd": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
        "lowest": min(accuracy), "highest": max(accuracy),
    })  # fmt: skip


def _value(field: Field[Any], text: str) -> Any:
    if not text and "None" in str(field.type):
        return None
    return {"int": int, "float": float, "str": str}[str(field.type).partition(" ")[0]](text)


def table(rows: Iterable[Row]) -> Table:
    r"""The columns that are read first."""
    columns = ["method", "rate", "seeds", "trained", "bytes stored", "peak MB", "step / full", "accuracy", "sd"]
    return Table(columns, [
        [r.method, f"{r.lr:g}", r.seeds, r.trained, r.storage_bytes, f"{r.peak / MB:.1f}", f"{r.step_ratio:.2f}",
         f"{r.accuracy:.3f}", None if r.sd is None else f"{r.sd:.3f}"]
        for r in rows
    ])  # fmt: skip


def to_csv(rows: Iterable[Row], path: str | Path) -> Path:
    r"""Write rows as a table with the names of `Row` on top; nothing stands for None.

    Raises CourseError, and leaves what is there as it is, where the file cannot be written or is no such table.
    """
    check_target(path)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        replace_text(Path(path), text.getvalue())
    except OSError as error:
        raise CourseError(f"cannot write {path}: {error.strerror}") from error
    return Path(path)


def check_target(path: str | Path) -> None:
    r"""CourseError unless a table can be written to `path`: nothing is there, or a table that `to_csv` wrote."""
    path = Path(path)
    try:
        there = path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):  # as `to_csv` does: it replaces the file
            pass
    except OSError as error:
        raise CourseError(f"cannot write {path}: {error.strerror}") from error
    if there:
        from_csv(path)


def from_csv(path: str | Path) -> list[Row]:
    r"""The rows that `to_csv` wrote. Raises CourseError where there is no such table."""
    try:
        reader = csv.DictReader(io.StringIO(Path(path).read_text(encoding="utf-8"), newline=""))
        if reader.fieldnames != [field.name for field in fields(Row)]:
            raise ValueError("other columns")
        return [Row(**{field.name: _value(field, entry[field.name]) for field in fields(Row)}) for entry in reader]
    except OSError as error:
        raise CourseError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:  # not UTF-8, other columns, a word for a number, a short line
        raise CourseError(
            f"{path} is no table of a comparison: to_csv(summary(compare(...)), path) writes one"
        ) from error
