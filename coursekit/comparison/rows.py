r"""One row a method from the runs of a comparison, and such rows as a small table in a file."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from coursekit.comparison.files import Line
from coursekit.errors import CourseError
from coursekit.memory.breakdown import MB
from coursekit.tables import Table

#: Categories of memory in the order of `Breakdown.rows`, and the most that is alive at once.
MEMORY = ("weights", "master", "gradients", "optimizer", "activations", "peak")


@dataclass(frozen=True)
class Row:
    r"""A method over its seeds.

    trained, head: parameters. storage_bytes: what `save` writes for one task. weights … peak: bytes of one step,
    measured; predicted_peak: by the memory model, None where it does not know the method. step_seconds, step_ratio:
    median over the seeds; the ratio is to full fine-tuning. accuracy: mean over the seeds; sd: their sample standard
    deviation, None for one seed; lowest, highest: of the seeds. sentences: tested, the same for every run.
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


def summary(lines: Iterable[Line]) -> list[Row]:
    r"""One row a method, in the order of the runs. Lines of the search for learning rates are left out.

    Raises CourseError for runs of one method that differ in more than the seed.
    """
    runs: dict[str, list[Line]] = {}
    for line in lines:
        if line["purpose"] == "run":
            runs.setdefault(line["method"], []).append(line)
    return [_row(group) for group in runs.values()]


def _row(group: Sequence[Line]) -> Row:
    first = group[0]
    same = ("family", "settings", "lr", "trained", "head", "majority", "task", "model", "steps", "batch_size", "device",
            "dtype", "n")  # fmt: skip
    for line in group:
        for key in same:
            if line[key] != first[key]:
                raise CourseError(
                    f"runs of {first['method']} differ in {key}, {first[key]!r} and {line[key]!r}: compare them apart"
                )
    accuracy = [line["accuracy"] for line in group]
    return Row(
        method=first["method"],
        seeds=len(group),
        sentences=first["n"],
        storage_bytes=max(line["storage_bytes"] for line in group),
        **{key: max(line["memory"][key] for line in group) for key in MEMORY},
        predicted_peak=first["predicted"] and first["predicted"]["peak"],
        step_seconds=statistics.median(line["step_seconds"] for line in group),
        step_ratio=statistics.median(line["step_ratio"] for line in group),
        accuracy=statistics.fmean(accuracy),
        sd=statistics.stdev(accuracy) if len(accuracy) > 1 else None,
        lowest=min(accuracy),
        highest=max(accuracy),
        threads=first["threads"],
        torch=first["versions"]["torch"],
        transformers=first["versions"]["transformers"],
        **{key: first[key] for key in same if key != "n"},
    )


def table(rows: Iterable[Row]) -> Table:
    r"""The columns that are read first."""
    columns = [
        "method",
        "rate",
        "seeds",
        "trained",
        "bytes stored",
        "peak MB",
        "step / full",
        "accuracy",
        "sd",
    ]
    return Table(columns, [
        [r.method, f"{r.lr:g}", r.seeds, r.trained, r.storage_bytes, f"{r.peak / MB:.1f}", f"{r.step_ratio:.2f}",
         f"{r.accuracy:.3f}", None if r.sd is None else f"{r.sd:.3f}"]
        for r in rows
    ])  # fmt: skip


def to_csv(rows: Iterable[Row], path: str | Path) -> Path:
    r"""Write rows as a table with the names of `Row` on top; nothing stands for None.

    Raises CourseError where the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    try:
        Path(path).write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise CourseError(f"cannot write {path}: {error.strerror}") from error
    return Path(path)


def from_csv(path: str | Path) -> list[Row]:
    r"""The rows that `to_csv` wrote. Raises CourseError for a table with other columns."""
    kinds = {"int": int, "float": float, "str": str}
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != [field.name for field in fields(Row)]:
            raise CourseError(
                f"{path} is no table of a comparison: to_csv(summary(read(...)), path) writes one"
            )
        return [
            Row(**{
                field.name: None if not entry[field.name] and "None" in field.type
                else kinds[field.type.partition(" ")[0]](entry[field.name])
                for field in fields(Row)
            })
            for entry in reader
        ]  # fmt: skip
