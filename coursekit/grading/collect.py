r"""Results become a gradebook: gradebook.csv, summary.json and index.html. Nothing here needs PyTorch."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.files import replace_text
from coursekit.grading import audit, manual, pages, pseudonyms, tables
from coursekit.grading.entry import Entry, Part

#: Statuses that a result has not: nothing was submitted; it is still to be graded.
NOTHING, WAITING = "not_handed_in", "waiting"


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
    replace_text(out / "index.html", pages.index(shown, summary))
    audit.note(out, "collected", submissions=len(entries), statuses=summary["statuses"])
    return entries


def read(out: Path) -> list[Entry]:
    r"""Every line of the manifest with its result and what people gave, in the manifest's order."""
    try:
        lines = [
            json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        ]
    except (OSError, ValueError):
        raise CourseError(f"{out} has no usable manifest: run `coursekit grade plan` first.") from None
    results = [_result(out, line["key"]) for line in lines]
    parts = {line["notebook"]: r["exercises"] for line, r in zip(lines, results, strict=True) if r}
    hand = manual.read(out, _real_names(out, lines))
    entries = [
        _entry(line, result, parts.get(line["notebook"], []), hand)
        for line, result in zip(lines, results, strict=True)
    ]
    _all_used(hand, entries)
    return entries


def without_names(out: Path, entries: list[Entry]) -> list[Entry]:
    r"""The same entries under pseudonyms; the list of them is written to pseudonyms.csv."""
    names = pseudonyms.write(out, pseudonyms.secret_of(out), {e.id for e in entries})
    return [replace(e, id=names[e.id], person={}) for e in entries]


def gradebook(entries: list[Entry]) -> list[list[Any]]:
    r"""Rows of gradebook.csv, the names of the columns first."""
    people = list(dict.fromkeys(column for e in entries for column in e.person if column != "id"))
    exercises = list(dict.fromkeys(p.id for e in entries for p in e.parts))
    head = ["id", *people, "notebook", "total", "of", "points", "status", "where", "message"]
    rows: list[list[Any]] = [[*head, "submitted", "ran", "box", "unsafe", *exercises]]
    for e in entries:
        given = {p.id: p.given for p in e.parts} if e.counts else {}
        row = [e.id, *(e.person.get(column, "") for column in people), e.notebook, e.total, e.of, e.points]
        row += [e.status, e.where, e.message, e.submitted, e.ran, e.box, e.unsafe]
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
    return dict(
        sorted(counts.items(), key=lambda c: (known.index(c[0]) if c[0] in known else len(known), c[0]))
    )


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


def histogram(totals: Iterable[float], of: float, most: int = 12) -> list[dict[str, Any]]:
    r"""How many totals lie in each of at most `most` round ranges from 0 to `of`; full marks, and more, in the last."""
    totals = list(totals)
    width = next(w for w in _WIDTHS if w * most >= of)
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
        raise CourseError(
            f"results/{key}.json cannot be read ({error}): delete it and grade again."
        ) from None


def _entry(
    line: dict[str, Any],
    result: dict[str, Any] | None,
    exercises: list[dict[str, Any]],
    hand: dict[tuple[str, str], manual.Manual],
) -> Entry:
    id, notebook = line["submission"], line["notebook"]
    common = {"person": line.get("person") or {}, "submitted": line.get("submitted")}
    if result is None:
        handed_in = line["key"] is not None
        status, message = (WAITING, "still to be graded") if handed_in else (NOTHING, "nothing was submitted")
        nobody_s = [
            {"id": e["id"], "of": e["of"], "points": 0, "status": status, "message": message}
            for e in exercises
        ]
        return Entry(
            id, notebook, status, message, _parts(id, nobody_s, hand), counts=not handed_in, **common
        )
    return Entry(
        id, notebook, result["status"], result["message"], _parts(id, result["exercises"], hand),
        where=result["where"], ran=result["ran"], box=result["box"], unsafe=result["unsafe"],
        counts=result["status"] != "infrastructure", **common,
    )  # fmt: skip


def _parts(
    id: str, exercises: list[dict[str, Any]], hand: dict[tuple[str, str], manual.Manual]
) -> tuple[Part, ...]:
    parts = []
    for e in exercises:
        given = hand.get((id, e["id"]))
        parts.append(
            Part(
                e["id"],
                e["points"],
                e["of"],
                e["status"],
                e["message"],
                e["points"] if given is None else given.points,
                e.get("right", 0),
                e.get("cases", 0),
                e.get("copies", 0),
                given.comment if given else "",
                given is not None,
            )  # fmt: skip
        )
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
    secret = pseudonyms.secret_of(out)
    return {pseudonyms.pseudonym(secret, line["submission"]): line["submission"] for line in lines}


def _all_used(hand: dict[tuple[str, str], manual.Manual], entries: list[Entry]) -> None:
    r"""A mark that nobody gets is a slip of the pen, and must not go unseen."""
    there = {(e.id, p.id) for e in entries for p in e.parts}
    for id, exercise in hand:
        if (id, exercise) not in there:
            what = (
                "no such submission"
                if id not in {e.id for e in entries}
                else "no such exercise in it; give `of`"
            )
            raise CourseError(f"{manual.FILE}: {id}, {exercise}: there is {what}.")
