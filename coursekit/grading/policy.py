r"""Late work, applied when marks leave; the marks themselves stay as they are. docs/teaching.md has the files' form."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError, one_of, unknown
from coursekit.grading import tables
from coursekit.grading.collect import Entry

FILE, EXTENSIONS, TIMES = "policy.toml", "extensions.csv", "submitted.csv"
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Late:
    r"""What lateness costs one submission: days that have begun, and the share of its points that is left."""

    days: int = 0
    kept: float = 1.0

    def points(self, points: float) -> float:
        r"""What is left of them."""
        return points * self.kept


@dataclass(frozen=True)
class Policy:
    r"""See docs/teaching.md. due: by notebook; extended: by (id, notebook) and (id, ""); times: likewise."""

    grace: timedelta
    per_day: float
    most: float
    closes: timedelta | None
    due: dict[str, datetime]
    extended: dict[tuple[str, str], datetime | timedelta]
    times: dict[tuple[str, str], datetime]

    def late(self, id: str, notebook: str, submitted: str | None) -> Late:
        r"""submitted: the time of the submitted file; submitted.csv (id, notebook, time) knows better."""
        due = self._due(id, notebook)
        handed_in = self.times.get((id, notebook), self.times.get((id, "")))
        if handed_in is None and submitted:
            handed_in = _time(submitted, f"the time of {id}'s submission")
        if due is None or handed_in is None or handed_in <= due + self.grace:
            return Late()
        over = handed_in - due
        days = math.ceil(over / _DAY)
        if self.closes is not None and over > self.closes:
            return Late(days, 0.0)
        return Late(days, 1 - min(self.per_day * days, self.most))

    def _due(self, id: str, notebook: str) -> datetime | None:
        due = self.due.get(notebook)
        more = self.extended.get((id, notebook), self.extended.get((id, "")))
        if isinstance(more, timedelta):
            return due + more if due else None
        return more or due


def read(out: Path, entries: Iterable[Entry]) -> Policy | None:
    r"""The policy in the folder of a batch; None where there is none. CourseError for what is not understood, and for
    ids and notebooks that are not among `entries`: a typo there would count for nobody, and nobody would see it.
    """
    path = out / FILE
    entries = list(entries)
    if not path.is_file():
        for name in (EXTENSIONS, TIMES):
            if (out / name).is_file():
                raise CourseError(f"{name} counts for nothing without {FILE}: write one, with a table [due].")
        return None
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CourseError(f"{FILE} is not valid TOML: {error}") from None
    _known(content, ("late", "due"), "table")
    late, due = (_table(content, name) for name in ("late", "due"))
    _known(late, ("grace_minutes", "per_day", "most", "closes_after_days"), "setting of [late]")
    closes = late.get("closes_after_days")
    here = {e.notebook for e in entries}
    known = {e.id for e in entries}, here | set(due)
    found = Policy(
        timedelta(minutes=_setting("grace_minutes", late.get("grace_minutes", 0))),
        _setting("per_day", late.get("per_day", 0), most=1),
        _setting("most", late.get("most", 1), most=1),
        None if closes is None else timedelta(days=_setting("closes_after_days", closes)),
        {notebook: _aware(when, f"{FILE}, [due], {notebook}") for notebook, when in due.items()},
        _by_student(out / EXTENSIONS, ("id",), ("days", "due"), known, _extension),
        _by_student(out / TIMES, ("id", "time"), (), known, lambda row, where: _time(row["time"], where)),
    )
    if content and (missing := sorted(here - set(due))):  # nothing would be late
        raise CourseError(f"{FILE}: [due] has no {', '.join(missing)}, only {', '.join(due) or 'nothing'}.")
    return found


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise CourseError(f"{FILE}: {name} must be a table, [{name}]; got {found!r}.")
    return found


def _by_student(
    path: Path, needed: tuple[str, ...], more: tuple[str, ...], known: tuple[set[str], set[str]],
    read: Callable[[dict[str, str], str], Any],
) -> dict[tuple[str, str], Any]:  # fmt: skip
    r"""What a file says of each (id, notebook); "" is every notebook. known: the ids, and the notebooks."""
    found: dict[tuple[str, str], Any] = {}
    names, rows = tables.read(path, needed) if path.is_file() else ([], [])
    # A row whose notebook stands in a column of another name would count for all of them.
    _known(names, ("notebook", *needed, *more), "column", path.name)
    for line, row in enumerate(rows, start=2):
        where = f"{path.name}, line {line}"
        key = (row["id"].strip(), row.get("notebook", "").strip())
        for kind, name, names in zip(("submission", "notebook"), key, known, strict=True):
            if name not in names and (name or kind == "submission"):
                raise CourseError(f"{where}: {unknown(kind, name, names)}"[:300])
        if key in found:
            raise CourseError(f"{where}: {' '.join(key).strip()} is there twice.")
        found[key] = read(row, where)
    return found


def _extension(row: dict[str, str], where: str) -> datetime | timedelta:
    days, due = (row.get(column, "").strip() for column in ("days", "due"))
    if bool(days) == bool(due):
        raise CourseError(f"{where}: give days, such as 3, or due, such as 2026-05-04T12:00+02:00.")
    return timedelta(days=tables.number(days, where, "days", most=1000)) if days else _time(due, where)


def _time(text: str, where: str) -> datetime:
    try:
        return _aware(datetime.fromisoformat(text.strip()), where)
    except ValueError:
        raise CourseError(f"{where}: {text[:40]!r} is not a time such as 2026-05-04T12:00+02:00.") from None


def _aware(when: Any, where: str) -> datetime:
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise CourseError(f"{where}: a time needs its offset, as in 2026-05-04T12:00:00+02:00; got {when}.")
    if not 1970 <= when.year < 3000:
        raise CourseError(f"{where}: {when} is not in a year of any course.")
    return when


def _setting(name: str, value: Any, most: float = 1e6) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise CourseError(f"{FILE}: {name} must be a number from 0 to {most:g}; got {value!r}.")
    return float(value)


def _known(found: Iterable[str], names: tuple[str, ...], kind: str, file: str = FILE) -> None:
    for name in found:
        one_of(f"{kind} in {file}", name, names)
