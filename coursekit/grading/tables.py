r"""CSV files that people and spreadsheets read: written by a library, with nothing in them that a spreadsheet runs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.files import replace_text

#: What a spreadsheet takes for a formula: at the start of a cell, also where it parts cells at semicolons.
_FORMULA = re.compile(r"(^|;)(?=[=+\-@\t])")


def harmless(value: Any) -> Any:
    r"""A text with nothing that a spreadsheet runs or that turns the writing round; a formula gets an apostrophe.
    Numbers stay numbers, and a hyphen alone: learning platforms write that for "nothing".
    """
    if not isinstance(value, str) or value == "-":
        return value
    plain = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in value)
    return _FORMULA.sub(r"\1'", plain)


def bare(text: str) -> str:
    r"""A cell as it was before `harmless`: without the apostrophe of a formula."""
    return re.sub(r"(^|;)'(?=[=+\-@\t])", r"\1", text)


def text(rows: Iterable[Sequence[Any]]) -> str:
    r"""Rows as CSV; None is an empty cell, a float has at most two digits behind the point."""
    file = io.StringIO()
    plain, quoted = (csv.writer(file, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in rows:
        cells = [harmless(_short(v) if isinstance(v, float) else v) for v in row]
        (quoted if any(";" in cell for cell in cells if isinstance(cell, str)) else plain).writerow(cells)
    return file.getvalue()


def _short(value: float) -> float | int:
    value = round(value, 2)
    return int(value) if value.is_integer() else value


def write(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    r"""Write rows to `path`, whole or not at all; returns it."""
    replace_text(path, text(rows))
    return path


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
            raise CourseError(f"{path.name}, line {number}: {len(names)} cells are needed, as in the first line.")
    return names, found


def by_id(path: Path) -> dict[str, dict[str, str]]:
    r"""The rows of a roster, a file with a column `id`, by that id. CourseError where one is missing or there twice."""
    found: dict[str, dict[str, str]] = {}
    for row in read(path, needed=["id"])[1]:
        id = row["id"].strip()
        if not id or id in found:
            what = f"the id {id!r} twice" if id else "a line without an id"
            raise CourseError(f"the roster {path} has {what}")
        found[id] = row
    return found


def number(value: str, where: str, what: str = "points", most: float = 1e9) -> float:
    r"""A number that is not negative; a comma will do as a point."""
    try:
        found = float(value.strip().replace(",", "."))
    except ValueError:
        found = -1.0
    if not 0 <= found <= most:
        above = "of 0 or more" if most == 1e9 else f"from 0 to {most:g}"
        raise CourseError(f"{where}: {what} must be a number {above}, such as 2.5; got {value[:40]!r}.")
    return found
