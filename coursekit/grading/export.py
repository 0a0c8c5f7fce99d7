r"""Marks for Canvas, Moodle, Gradescope, nbgrader, or a plain CSV. Lateness counts here, and only here."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from coursekit.errors import CourseError, one_of
from coursekit.files import folder_at, replace_text
from coursekit.grading import collect, pages, policy, tables
from coursekit.grading.collect import Entry
from coursekit.grading.folder import Batch, note


@dataclass(frozen=True)
class Options:
    r"""What an export may need; the options of `grade export`."""

    fill: Annotated[Path | None, typer.Option(help="Moodle: the worksheet that it exported.")] = None
    id_column: Annotated[str | None, typer.Option(help="Moodle: the column that says who it is.")] = None
    grade_column: Annotated[str | None, typer.Option(help="Moodle: default `Grade`.")] = None
    maximum_column: Annotated[str | None, typer.Option(help="Moodle: default `Maximum grade`.")] = None
    comment_column: Annotated[str | None, typer.Option(help="Moodle: default `Feedback comments`.")] = None
    scale: Annotated[bool, typer.Option("--scale", help="Moodle: bring points to its maximum.")] = False
    column: Annotated[str | None, typer.Option(help='Canvas: head of the column, "LoRA (4711)".')] = None


@dataclass(frozen=True)
class Mark:
    r"""An entry, and what of its points counts. points: None while there is no mark, which no system may take for 0."""

    entry: Entry
    late: policy.Late = field(default_factory=policy.Late)

    @property
    def points(self) -> float | None:
        total = self.entry.total
        return None if total is None else round(self.late.points(total), 2)


def export(out: Path, to: str, options: Options | None = None) -> Path:
    r"""Write the marks of the batch's folder `out` for the system `to`; returns the file, or the folder.

    Raises CourseError for an unknown system, or for a file to be filled that does not fit the marks.
    """
    one_of("format", to, FORMATS)
    entries = sorted(collect.read(out), key=lambda e: (e.notebook, e.id))
    rules = policy.read(out, entries)
    marks = [Mark(e, rules.late(e.id, e.notebook, e.submitted) if rules else policy.Late()) for e in entries]
    place = folder_at(out / "export")
    written = FORMATS[to](marks, place, options or Options())
    note(out, "exported", to=to, submissions=len(marks), file=written.name)
    return written


#: Columns of a plain CSV, every mark with what made it.
_PLAIN: dict[str, Callable[[Mark], Any]] = {
    "id": lambda m: m.entry.id,
    "name": lambda m: m.entry.name,
    "email": lambda m: m.entry.person.get("email", ""),
    "notebook": lambda m: m.entry.notebook,
    "points": lambda m: m.points,
    "of": lambda m: m.entry.of,
    "percent": lambda m: None if m.points is None or not m.entry.of else 100 * m.points / m.entry.of,
    "before_lateness": lambda m: m.entry.total,
    "days_late": lambda m: m.late.days,
    "status": lambda m: m.entry.status,
}


def _csv(marks: list[Mark], place: Path, options: Options) -> Path:
    rows = [[value(m) for value in _PLAIN.values()] for m in marks]
    return tables.write(place / "marks.csv", [list(_PLAIN), *rows])


def _nbgrader(marks: list[Mark], place: Path, options: Options) -> Path:
    r"""The columns of `nbgrader export`."""
    rows: list[Sequence[Any]] = [
        ("assignment", "duedate", "timestamp", "student_id", "last_name", "first_name", "email",
         "raw_score", "late_submission_penalty", "score", "max_score")
    ]  # fmt: skip
    for m in marks:
        e, p = m.entry, m.entry.person
        lost = None if m.points is None else e.total - m.points
        names = (p.get("last_name", ""), p.get("first_name", ""), p.get("email", ""))
        rows.append((e.notebook, None, e.submitted, e.id, *names, e.total, lost, m.points, e.of))
    return tables.write(place / "nbgrader.csv", rows)


def _canvas(marks: list[Mark], place: Path, options: Options) -> Path:
    r"""Canvas finds students by SIS Login ID; the second row has the points that can be had."""
    notebook, of = _one_notebook(marks)
    column = options.column or notebook
    if "final" in column.lower():
        raise CourseError(f"Canvas ignores columns with 'final' in their name: give another --column than {column!r}.")
    rows: list[Sequence[Any]] = [
        ("Student", "ID", "SIS User ID", "SIS Login ID", "Section", column),
        ("Points Possible", None, None, None, None, of),
    ]
    for m in marks:
        p = m.entry.person
        known = (p.get("canvas_id"), p.get("sis_user_id"), p.get("login") or m.entry.id, p.get("section"))
        rows.append((m.entry.name, *known, m.points))
    return tables.write(place / "canvas.csv", rows)


def _gradescope(marks: list[Mark], place: Path, options: Options) -> Path:
    r"""A folder with a results.json a student, as an autograder there would write it."""
    names = pages.file_names(m.entry for m in marks)
    for m in marks:
        e = m.entry
        if m.points is None:
            continue
        late = f" Handed in {m.late.days} days late." if m.late.days else ""
        tests = [
            {
                "name": part.id, "score": round(part.given, 2), "max_score": part.of,
                "status": "passed" if part.given >= part.of else "failed", "visibility": "visible",
                "output": "\n".join(filter(None, (part.message if part.status != "ok" else "", part.comment))),
            }
            for part in e.parts
        ]  # fmt: skip
        result = {"score": m.points, "output": e.message + late, "stdout_visibility": "hidden", "tests": tests}
        folder = folder_at(place / "gradescope" / names[e.id, e.notebook].removesuffix(".html"))
        replace_text(folder / "results.json", json.dumps(result, indent=1) + "\n")
    return place / "gradescope"


def _moodle(marks: list[Mark], place: Path, options: Options) -> Path:
    r"""The offline worksheet that Moodle exported, with grades and comments filled in and all else as it was; beside
    it moodle-feedback.zip, the pages as "feedback files" under the names that Moodle's import reads.

    A row is a student's where one of its cells is the student's id, e-mail or number ("Participant 123" is 123). The
    number that names a page's folder is the one in the first column, the identifier.
    """
    if options.fill is None:
        raise CourseError("Moodle needs its own worksheet: download it there, and give it with --fill worksheet.csv.")
    (_, of), hints = _one_notebook(marks), Batch(place.parent).hints()
    names, rows = tables.read(options.fill)
    grade = _column(names, options.grade_column, "Grade", "--grade-column")
    maximum = _column(names, options.maximum_column, "Maximum grade", "--maximum-column")
    comment = options.comment_column or ("Feedback comments" if "Feedback comments" in names else None)
    if comment is not None:
        _column(names, comment, comment, "--comment-column")
    if options.id_column is not None:
        _column(names, options.id_column, "", "--id-column")
    whose = _people(marks)
    filled: set[str] = set()
    given: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        cells = [row[options.id_column]] if options.id_column else list(row.values())
        found = {whose[key] for cell in cells for key in _keys(cell) if key in whose}
        if len(found) > 1:
            raise CourseError(
                f"{options.fill.name}, line {number}: it is {' and '.join(sorted(found))}; give --id-column."
            )
        for id in found:
            if id in filled:
                raise CourseError(f"{options.fill.name}, line {number}: {id} appears twice: give --id-column.")
            filled.add(id)
            mark = next(m for m in marks if m.entry.id == id)
            if mark.points is not None:
                row[grade] = f"{_scaled(mark.points, of, row[maximum], options, number):g}"
                if comment is not None:
                    row[comment] = mark.entry.message
                if digits := re.fullmatch(r"\D*(\d+)", row[names[0]].strip()):
                    # Moodle parts the name at underscores.
                    name = re.sub(r"[^\w .'-]|_", " ", mark.entry.name)[:60]
                    inside = f"{name}_{digits[1]}_assignsubmission_file_/feedback.html"
                    given[inside] = pages.page("feedback.html", entry=mark.entry, late=mark.late, hints=hints)
    if not filled:
        raise CourseError(
            f"{options.fill.name} lists nobody from this batch: give --id-column, or a roster with e-mails."
        )
    missing = sorted(m.entry.id for m in marks if m.entry.id not in filled and m.points)
    if missing:
        raise CourseError(f"{options.fill.name} has no line for {', '.join(missing[:5])}: is it the right worksheet?")
    with zipfile.ZipFile(place / "moodle-feedback.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, page in given.items():
            archive.writestr(name, page)
    return tables.write(place / "moodle.csv", [names, *([row[name] for name in names] for row in rows)])


def _scaled(points: float, of: float, maximum: str, options: Options, line: int) -> float:
    most = tables.number(maximum, f"{options.fill.name}, line {line}, the maximum grade")
    if most == of or not of:
        return points
    if not options.scale:
        raise CourseError(
            f"Moodle's maximum is {most:g}, there are {of:g} points: give --scale, or change it in Moodle."
        )
    return round(points * most / of, 2)


def _people(marks: list[Mark]) -> dict[str, str]:
    r"""What a cell may say -> id. What two students share says nothing."""
    found: dict[str, set[str]] = {}
    for m in marks:
        person = m.entry.person
        for cell in (m.entry.id, person.get("email", ""), person.get("participant", "")):
            if cell:
                found.setdefault(cell.strip().casefold(), set()).add(m.entry.id)
    return {key: ids.pop() for key, ids in found.items() if len(ids) == 1}


def _keys(cell: str) -> set[str]:
    r"""A cell, and the number in "Participant 123", in whatever language: one word, then the number."""
    cell = cell.strip().casefold()
    number = re.fullmatch(r"[^\W\d_]+ (\d+)", cell)
    return {cell, number[1]} if number else {cell}


def _column(names: list[str], given: str | None, usual: str, option: str) -> str:
    name = given or usual
    if name not in names:
        raise CourseError(f"the worksheet has no column {name!r}: give {option}, one of {', '.join(names)}.")
    return name


def _one_notebook(marks: list[Mark]) -> tuple[str, float]:
    notebooks = sorted({m.entry.notebook for m in marks})
    if len(notebooks) != 1:
        raise CourseError(f"one column holds one assignment, and there are {len(notebooks)}: export each folder alone.")
    return notebooks[0], max(m.entry.of for m in marks)


FORMATS: dict[str, Callable[[list[Mark], Path, Options], Path]] = {
    "canvas": _canvas,
    "moodle": _moodle,
    "gradescope": _gradescope,
    "nbgrader": _nbgrader,
    "csv": _csv,
}
