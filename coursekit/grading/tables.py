r"""CSV files that people and spreadsheets read: written by a library, with nothing in them that a spreadsheet runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.files import replace_text

#: A cell that begins with one of these is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def harmless(value: Any) -> Any:
    r"""A text that a spreadsheet would take for a formula gets an apostrophe in front; numbers stay numbers.

    A hyphen alone is what learning platforms write for "nothing", and harmless.
    """
    if isinstance(value, str) and value.startswith(_FORMULA) and value != "-":
        return f"'{value}"
    return value


def text(rows: Iterable[Sequence[Any]]) -> str:
    r"""Rows as CSV; None is an empty cell, a float has at most two digits behind the point."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for row in rows:
        writer.writerow([harmless(_short(v) if isinstance(v, float) else v) for v in row])
    return file.getvalue()


def _short(value: float) -> float | int:
    value = round(value, 2)
    return int(value) if value.is_integer() else value


def write(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    r"""Write rows to `path`, whole or not at all."""
    replace_text(path, text(rows))


def read(path: Path, needed: Sequence[str] = ()) -> tuple[list[str], list[dict[str, str]]]:
    r"""Names of the columns, and the rows by them. CourseError where a column of `needed` is missing, or a row long."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            names, found = list(rows.fieldnames or []), list(rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CourseError(f"cannot read {path}: {error}") from None
    for name in needed:
        if name not in names:
            raise CourseError(f"{path.name} needs a column {name}; it has {', '.join(names) or 'none'}.")
    for number, row in enumerate(found, start=2):
        if None in row or None in row.values():
            raise CourseError(
                f"{path.name}, line {number}: {len(names)} cells are needed, as in the first line."
            )
    return names, found


def number(value: str, where: str) -> float:
    r"""A number that is not negative; a comma will do as a point."""
    try:
        found = float(value.strip().replace(",", "."))
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e9:
        raise CourseError(f"{where}: points must be a number of 0 or more, such as 2.5; got {value[:40]!r}.")
    return found
