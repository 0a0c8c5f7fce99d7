r"""Marks that people give: manual.csv beside the results, read and never written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def rows(out: Path) -> list[dict[str, str]]:
    r"""The lines of manual.csv as they were typed; [] where there is none. Raises CourseError for what is no table."""
    found = tables.read(out / FILE, ("id", "exercise", "points"))[1] if (out / FILE).is_file() else []
    return [{name: tables.bare(cell) for name, cell in row.items()} for row in found]


def read(out: Path, names: Mapping[str, str], groups: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], Manual]:
    r"""By id of the student and exercise. Columns: id, exercise, points, comment; and of, for what only people mark.

    names: pseudonym -> id, so that who marks without names need not know them. groups: name -> ids of all who get the
    mark. Raises CourseError for what is no mark.
    """
    found: dict[tuple[str, str], Manual] = {}
    ofs: dict[str, float] = {}
    for line, row in enumerate(rows(out), start=2):
        where = f"{FILE}, line {line}"
        id, exercise, of = row["id"].strip(), row["exercise"].strip(), row.get("of", "").strip()
        points = tables.number(row["points"], where)
        out_of = tables.number(of, where, "of") if of else None
        if out_of is not None and ofs.setdefault(exercise, out_of) != out_of:
            raise CourseError(f"{where}: {exercise} is of {out_of:g} points here, and of {ofs[exercise]:g} above.")
        for one in groups.get(id, [id]):
            key = (names.get(one, one), exercise)
            if not id or not exercise or key in found:
                what = "is there twice" if key in found else "needs an id and an exercise"
                raise CourseError(f"{where}: {one or 'it'} {exercise} {what}.".replace("  ", " "))
            found[key] = Manual(points, row.get("comment", "").strip(), out_of)
    return found
