r"""A page on which people mark what no check can: the answer in its context, points, comments that can be used again.

It is a file that works without a server: it keeps what is typed in the browser and gives it back as manual.csv.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError, number, unknown
from coursekit.files import folder_at, replace_text
from coursekit.grading import collect, gate, manual, pages
from coursekit.grading.folder import note
from coursekit.grading.ids import function_name


def write(out: Path, exercise: str, of: float | None = None, anonymous: bool = False) -> Path:
    r"""Write marking/<exercise>.html in the batch's folder: a card for each submission, one for a group.

    exercise: the grade_id of a cell, of code or of text. of: its points, where the grader does not know it. What
    manual.csv says already is on the page, and comes back with what is typed. Raises CourseError where nobody's
    notebook has such a cell, or the points are not known.
    """
    entries = collect.read(out)
    shown = collect.without_names(out, entries) if anonymous else entries
    parts = {e.id: next((p for p in e.parts if p.id == exercise), None) for e in entries}
    known = [p.of for p in parts.values() if p is not None]
    if not known and of is None:
        raise CourseError(f"{exercise}: the grader does not know it, so say of how many points it is: --of 4")
    of = known[0] if known else number("--of", of, least=0)
    cards: dict[str, dict[str, Any]] = {}
    for entry, other in zip(entries, shown, strict=True):
        if entry.key is None or entry.key in cards:
            continue
        part = parts[entry.id]
        by_hand = part if part is not None and part.manual else None
        cards[entry.key] = {
            "id": other.id if anonymous else entry.group or entry.id,
            "cells": _context(Path(entry.path), entry.notebook, exercise),
            "said": "" if part is None or part.status in ("ok", "to_be_marked", "manual") else part.message,
            "grader": None if part is None or part.cases == 0 else part.points,
            "points": "" if by_hand is None else f"{by_hand.given:g}",
            "comment": "" if by_hand is None else by_hand.comment,
        }
    if not any(cell["asked"] for card in cards.values() for cell in card["cells"]):
        there = {p.id for e in entries for p in e.parts}
        raise (unknown("exercise", exercise, there) if there else CourseError(f"nobody's notebook has {exercise}"))
    rows = manual.rows(out)
    others = [[r.get(c) or "" for c in COLUMNS] for r in rows if r["exercise"].strip() != exercise]
    data = {"exercise": exercise, "of": of, "own": not known, "rows": others, "columns": COLUMNS}
    comments = sorted({r.get("comment", "").strip() for r in rows if r["exercise"].strip() == exercise} - {""})
    values = {"exercise": exercise, "of": of, "comments": comments, "data": json.dumps(data)}
    in_order = sorted(cards.values(), key=lambda c: c["id"])
    page = pages.page("marking.html", "marking.js", cards=in_order, **values)
    written = folder_at(out / "marking") / f"{pages.file_name(exercise)}.html"
    replace_text(written, page)
    note(out, "wrote marking page", exercise=exercise, cards=len(cards))
    return written


#: Columns of manual.csv, as the page writes it.
COLUMNS = ["id", "exercise", "points", "comment", "of"]


def _context(path: Path, notebook: str, exercise: str) -> list[dict[str, Any]]:
    r"""The cell of an exercise, wherever it stands, with the cell before it and the one after: kind, source, asked."""
    try:
        _, _, cells = gate.submitted(path, notebook)
    except (gate.Refused, OSError) as error:
        return [{"kind": "raw", "source": f"this submission cannot be read: {error}", "asked": False}]
    named = re.compile(rf"^(def|class) {re.escape(function_name(exercise))}\b", re.MULTILINE)
    ours = [n for n, cell in enumerate(cells) if cell.id == exercise or named.search(cell.source)]
    near = sorted({m for n in ours for m in (n - 1, n, n + 1) if 0 <= m < len(cells)})
    return [{"kind": cells[n].kind, "source": cells[n].source[:20_000], "asked": n in ours} for n in near]
