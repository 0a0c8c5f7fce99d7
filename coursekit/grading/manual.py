r"""Marks that people give: manual.csv beside the results, read and never written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coursekit.errors import CourseError
from coursekit.grading import tables

FILE = "manual.csv"


@dataclass(frozen=True)
class Manual:
    r"""Points for one exercise that count instead of the grader's. of: points of an exercise only people mark."""

    points: float
    comment: str = ""
    of: float | None = None


def read(out: Path, names: Mapping[str, str]) -> dict[tuple[str, str], Manual]:
    r"""By id of the student and exercise. Columns: id, exercise, points, comment; and of, for what only people mark.

    names: pseudonym -> id, so that who marks without names need not know them. Raises CourseError for what is no mark.
    """
    path = out / FILE
    if not path.is_file():
        return {}
    found: dict[tuple[str, str], Manual] = {}
    for line, row in enumerate(tables.read(path, ("id", "exercise", "points"))[1], start=2):
        where = f"{FILE}, line {line}"
        id, exercise = row["id"].strip(), row["exercise"].strip()
        key = (names.get(id, id), exercise)
        if not id or not exercise or key in found:
            what = "is there twice" if key in found else "needs an id and an exercise"
            raise CourseError(f"{where}: {id or 'it'} {exercise} {what}.".replace("  ", " "))
        of = row.get("of", "").strip()
        points = tables.number(row["points"], where)
        found[key] = Manual(points, row.get("comment", "").strip(), tables.number(of, where) if of else None)
    return found
