r"""Results become a gradebook: gradebook.csv, summary.json and index.html. Nothing here needs PyTorch."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.files import replace_text
from coursekit.grading import manual, pages, pseudonyms, tables
from coursekit.grading.folder import Batch, note

#: Statuses that a result has not: nothing was submitted; it is still to be graded.
NOTHING, WAITING = "not_handed_in", "waiting"


@dataclass(frozen=True)
class Part:
    r"""One exercise of one submission. points: the grader's; given: what counts, a person's where there is one."""

    id: str
    points: float
    of: float
    status: str
    message: str
    given: float
    right: int = 0
    cases: int = 0
    copies: int = 0
    comment: str = ""
    manual: bool = False


@dataclass(frozen=True)
class Entry:
    r"""One submission in the gradebook. `counts` is False while it has no mark, which is not a mark of 0."""

    id: str
    notebook: str
    status: str
    message: str
    parts: tuple[Part, ...]
    person: dict[str, str]
    submitted: str | None = None
    where: str | None = None
    ran: str = ""
    box: str = ""
    unsafe: bool = False
    counts: bool = True
    #: Why it is nobody's on the roster; the group that handed it in.
    unmatched: str = ""
    group: str = ""
    #: Of its result; where it lies; how many there are of the same student, of which this one counts.
    key: str | None = None
    path: str = ""
    attempts: int = 1

    @property
    def points(self) -> float | None:
        r"""By the grader alone; None while there is no mark."""
        return sum(p.points for p in self.parts) if self.counts else None

    @property
    def total(self) -> float | None:
        r"""With what people gave; None while there is no mark."""
        return sum(p.given for p in self.parts) if self.counts else None

    @property
    def of(self) -> float:
        r"""Points there are."""
        return sum(p.of for p in self.parts)

    @property
    def name(self) -> str:
        r"""As the roster has it, else the id."""
        person = self.person
        full = " ".join(filter(None, (person.get("first_name", ""), person.get("last_name", ""))))
        return person.get("name") or full or self.id


def collect(out: Path, anonymous: bool = False) -> list[Entry]:
    r"""Write the gradebook of the batch in `out`, and return it: one entry a line of the manifest.

    anonymous: with pseudonyms instead of ids, and nothing else that is known of people; who is who is in
    pseudonyms.csv. Raises CourseError where there is no manifest, or manual.csv names what is not there.
    """
    entries = read(out)
    shown = without_names(out, entries) if anonymous else entries
    shown = sorted(shown, key=lambda e: (e.notebook, e.id))
    tables.write(out / "gradebook.csv", gradebook(shown))
    summary = summarize(shown)
    replace_text(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    index = pages.page("index.html", entries=shown, summary=summary, files=pages.file_names(shown))
    replace_text(out / "index.html", index)
    note(out, "collected", submissions=len(entries), statuses=summary["statuses"])
    return entries


def read(out: Path) -> list[Entry]:
    r"""Every line of the manifest with its result and what people gave, in the manifest's order."""
    lines = Batch(out).lines()
    results = [_result(out, line["key"]) for line in lines]
    parts = {line["notebook"]: r["exercises"] for line, r in zip(lines, results, strict=True) if r}
    groups: dict[str, list[str]] = {}
    for line in lines:
        if line.get("group"):
            groups.setdefault(line["group"], []).append(line["submission"])
    hand = manual.read(out, _real_names(out, lines), groups)
    entries = [
        _entry(line, result, parts.get(line["notebook"], []), hand) for line, result in zip(lines, results, strict=True)
    ]
    _all_used(hand, entries)
    return _best(entries)


def _best(entries: list[Entry]) -> list[Entry]:
    r"""Of several by one student, which the manifest has where the best counts, that one; of equals the newest."""
    mine: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        mine.setdefault((entry.id, entry.notebook), []).append(entry)
    key = lambda e: (-1 if e.total is None else e.total, e.submitted or "")  # noqa: E731
    return [replace(max(same, key=key), attempts=len(same)) for same in mine.values()]


def shown_points(entry: Entry) -> str:
    r"""Points of an entry, for a line of a terminal."""
    total = "no mark" if entry.total is None else f"{pages.shown(entry.total)} of {pages.shown(entry.of)}"
    return f"{total} (the best of {entry.attempts})" if entry.attempts > 1 else total


def without_names(out: Path, entries: list[Entry]) -> list[Entry]:
    r"""The same entries under pseudonyms; the list of them is written to pseudonyms.csv."""
    names = pseudonyms.write(out, Batch(out).secret(), {e.id for e in entries})
    return [replace(e, id=names[e.id], person={}, group="", unmatched="") for e in entries]


def gradebook(entries: list[Entry]) -> list[list[Any]]:
    r"""Rows of gradebook.csv, the names of the columns first."""
    people = list(dict.fromkeys(column for e in entries for column in e.person if column != "id"))
    exercises = list(dict.fromkeys(p.id for e in entries for p in e.parts))
    head = ["id", *people, "notebook", "total", "of", "points", "status", "where", "message"]
    rows: list[list[Any]] = [[*head, "submitted", "ran", "box", "unsafe", "group", "unmatched", *exercises]]
    for e in entries:
        given = {p.id: p.given for p in e.parts} if e.counts else {}
        row = [e.id, *(e.person.get(column, "") for column in people), e.notebook, e.total, e.of, e.points]
        row += [e.status, e.where, e.message, e.submitted, e.ran, e.box, e.unsafe, e.group, e.unmatched]
        rows.append([*row, *(given.get(id) for id in exercises)])
    return rows


def summarize(entries: list[Entry]) -> dict[str, Any]:
    r"""Counts by status; for each notebook its marks, and how its exercises went."""
    notebooks = list(dict.fromkeys(e.notebook for e in entries))
    return {
        "schema": 1,
        "submissions": len(entries),
        "statuses": _counts(entries),
        "unsafe": any(e.unsafe for e in entries),
        "notebooks": {name: _notebook([e for e in entries if e.notebook == name]) for name in notebooks},
    }


def _counts(entries: list[Entry]) -> dict[str, int]:
    r"""By status, in the order in which pages name them."""
    known, counts = list(pages.STATUS), Counter(e.status for e in entries)
    return dict(sorted(counts.items(), key=lambda c: (known.index(c[0]) if c[0] in known else len(known), c[0])))


def _notebook(entries: list[Entry]) -> dict[str, Any]:
    handed_in = [e for e in entries if e.counts and e.status != NOTHING]
    totals = [e.total for e in handed_in]
    of = max((e.of for e in entries), default=0)
    ids = dict.fromkeys(p.id for e in entries for p in e.parts)
    return {
        "of": of,
        "marked": len(totals),
        "mean": round(statistics.mean(totals), 2) if totals else None,
        "median": round(statistics.median(totals), 2) if totals else None,
        "statuses": _counts(entries),
        "histogram": histogram(totals, of),
        "exercises": [_exercise(id, [p for e in handed_in for p in e.parts if p.id == id]) for id in ids],
    }


def histogram(totals: Iterable[float], of: float) -> list[dict[str, Any]]:
    r"""How many totals lie in each of at most 12 round ranges from 0 to `of`; full marks, and more, in the last."""
    totals = list(totals)
    width = next(w for w in _WIDTHS if w * 12 >= of)
    bars = max(1, math.ceil(of / width))
    counts = Counter(min(bars - 1, int(t / width)) for t in totals)
    return [{"from": width * i, "to": min(width * (i + 1), of), "count": counts[i]} for i in range(bars)]


#: Widths of a histogram's ranges that can be read.
_WIDTHS = [step * 10.0**power for power in range(-1, 9) for step in (1, 2, 5)]


def _exercise(id: str, parts: list[Part]) -> dict[str, Any]:
    # What is said of a wrong answer is the course's own text; of other trouble only the kind is counted.
    mistakes = Counter(
        p.message if p.status == "wrong" else p.status for p in parts if p.status not in ("ok", "manual")
    )
    passed = sum(p.status == "ok" for p in parts)
    tried = sum(p.status != "not_attempted" for p in parts)
    listed = sorted(mistakes.items(), key=lambda m: (-m[1], m[0]))
    return {
        "id": id, "of": max((p.of for p in parts), default=0), "submissions": len(parts), "tried": tried,
        "passed": passed, "mistakes": [{"message": message, "count": n} for message, n in listed],
    }  # fmt: skip


def _result(out: Path, key: str | None) -> dict[str, Any] | None:
    if key is None or not re.fullmatch(r"[0-9a-f]{1,64}", key):
        return None
    try:
        return json.loads((out / "results" / f"{key}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CourseError(f"results/{key}.json cannot be read ({error}): delete it and grade again.") from None


def _entry(
    line: dict[str, Any], result: dict[str, Any] | None, exercises: list[dict[str, Any]],
    hand: dict[tuple[str, str], manual.Manual],
) -> Entry:  # fmt: skip
    id, notebook = line["submission"], line["notebook"]
    common = {"person": line.get("person") or {}, "submitted": line.get("submitted")}
    common |= {"key": line["key"], "path": line["path"] or ""}
    common |= {"unmatched": line.get("unmatched", ""), "group": line.get("group", "")}
    if result is None:
        handed_in = line["key"] is not None
        status, message = (WAITING, "still to be graded") if handed_in else (NOTHING, "nothing was submitted")
        nobody_s = [
            {"id": e["id"], "of": e["of"], "points": 0, "status": status, "message": message} for e in exercises
        ]
        return Entry(id, notebook, status, message, _parts(id, nobody_s, hand), counts=not handed_in, **common)
    return Entry(
        id, notebook, result["status"], result["message"], _parts(id, result["exercises"], hand),
        where=result["where"], ran=result["ran"], box=result["box"], unsafe=result["unsafe"],
        counts=result["status"] != "infrastructure", **common,
    )  # fmt: skip


#: What a result says of an exercise, as Part has it.
_TOLD = ("id", "points", "of", "status", "message", "right", "cases", "copies")


def _parts(id: str, exercises: list[dict[str, Any]], hand: dict[tuple[str, str], manual.Manual]) -> tuple[Part, ...]:
    parts = []
    for e in exercises:
        given = hand.get((id, e["id"]))
        mark = given or manual.Manual(e["points"])
        told = {name: e[name] for name in _TOLD if name in e}
        parts.append(Part(**told, given=mark.points, comment=mark.comment, manual=given is not None))
    there = {p.id for p in parts}
    by_hand = {exercise: mark.of for (_, exercise), mark in hand.items() if mark.of is not None}
    for exercise, of in by_hand.items():  # everybody's exercise, and 0 until somebody has marked it
        if exercise not in there:
            mark = hand.get((id, exercise), manual.Manual(0.0))
            status, done = ("manual", True) if (id, exercise) in hand else ("to_be_marked", False)
            parts.append(Part(exercise, 0, of, status, "", mark.points, comment=mark.comment, manual=done))
    return tuple(parts)


def _real_names(out: Path, lines: list[dict[str, Any]]) -> dict[str, str]:
    if not (out / pseudonyms.FILE).is_file():
        return {}
    secret = Batch(out).secret()
    return {pseudonyms.pseudonym(secret, line["submission"]): line["submission"] for line in lines}


def _all_used(hand: dict[tuple[str, str], manual.Manual], entries: list[Entry]) -> None:
    r"""A mark that nobody gets, or of more points than there are, is a slip of the pen, and must not go unseen."""
    there = {(e.id, p.id): p for e in entries for p in e.parts}
    ids = {e.id for e in entries}
    for (id, exercise), mark in hand.items():
        part, what = there.get((id, exercise)), ""
        if part is None:
            what = "there is no such exercise in it; give `of`" if id in ids else "there is no such submission"
        elif 0 < part.of < mark.points:  # a bonus is an exercise of its own, of 0 points
            what = f"{mark.points:g} points of {part.of:g}; for a bonus give an exercise of its own, with 0 as `of`"
        if what:
            raise CourseError(f"{manual.FILE}: {id}, {exercise}: {what}.")
