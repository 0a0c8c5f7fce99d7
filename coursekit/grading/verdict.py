r"""From the bytes that left the box to statuses and points. Nothing in these bytes is believed but the values."""

from __future__ import annotations

import builtins
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coursekit.checks import BaseExercise, judge, mistake
from coursekit.checks.training import Training
from coursekit.grading.inside.failures import OWN
from coursekit.grading.inside.wire import Unreadable, decode
from coursekit.grading.statuses import SAYS

#: Lines of a report that are read, and characters of one.
MOST_LINES = 5_000
MOST_LINE = 40 * 2**20


def harvest(path: Path, most: int) -> bytes:
    r"""What a box wrote: a regular file of at most `most` bytes. OSError for a link, a FIFO, a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("what came out of the box is not a regular file")
        return file.read(most)


def records(content: bytes) -> Iterator[dict[str, Any]]:
    r"""The report's lines that are JSON objects with an event; the last, where it was cut off, is left out."""
    for line in content.split(b"\n", MOST_LINES)[:MOST_LINES][: content.count(b"\n")]:
        if 0 < len(line) <= MOST_LINE:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and isinstance(record.get("event"), str):
                yield record


def run_phase(content: bytes) -> dict[str, Any]:
    r"""The cell that was begun last, and what failed: {"cell": n or None, "failed": [{cell, status, message}]}."""
    cell, failed = None, []
    for record in records(content):
        number = record.get("cell")
        if type(number) is not int or not 0 <= number < 10_000:
            continue
        if record["event"] == "cell":
            cell = number
        elif record["event"] == "failed" and len(failed) < 50:
            failed.append({"cell": number, "status": _own(record), "message": _message(record)})
    return {"cell": cell, "failed": failed}


def probe_phase(
    content: bytes, exercises: dict[str, BaseExercise], asked: dict[str, list[Any]]
) -> dict[str, dict[str, Any]]:
    r"""For each exercise that was begun: {"status", "message", "right", "cases", "ended"}; absent if never begun.

    asked: for each the arguments of its cases; for a training its one TrainingCase. That has "share" (of the points)
    and "measured" too.
    """
    answers: dict[str, dict[int, Any]] = {}
    trouble: dict[str, tuple[str, str]] = {}
    ended: set[str] = set()
    now = None
    for record in records(content):
        id, event = record.get("id"), record["event"]
        if event == "exercise" and isinstance(id, str) and id in asked and id not in answers:
            now, answers[id] = id, {}
        if now is None or id != now:  # what is said of an exercise while another is asked counts for neither
            continue
        mine = answers[now]
        case = record.get("case")
        case = case if type(case) is int and 0 <= case < len(asked[id]) else None
        if event == "missing":
            trouble.setdefault(id, ("missing_name", ""))
            ended.add(id)
        elif event == "answer" and case is not None:
            if case in mine:
                trouble[id] = ("invalid_output", "it gave two answers to one question")
                continue
            try:
                mine[case] = decode(record.get("value"))
            except Unreadable:
                trouble.setdefault(id, ("invalid_output", SAYS["invalid_output"]))
        elif event == "unreadable":
            trouble.setdefault(id, ("invalid_output", "its answer is too large or too deeply nested"))
        elif event == "stopped" and case is not None:
            status = _own(record)
            trouble.setdefault(id, (status, _bare(record)))
        elif event == "ended":
            ended.add(id)
    return {
        id: {**marked(exercises[id], asked[id], mine, trouble.get(id)), "ended": id in ended}
        for id, mine in answers.items()
    }


def marked(
    exercise: BaseExercise, asked: list[Any], answers: dict[int, Any], trouble: tuple[str, str] | None
) -> dict[str, Any]:
    r"""One exercise: how many of its cases are right, and what is to be said."""
    if trouble and trouble[0] == "invalid_output":
        return {"status": trouble[0], "message": trouble[1], "right": 0, "cases": len(asked)}
    empty = [n for n, v in answers.items() if v is None or v is ...]
    if answers and len(empty) == len(asked):
        return {"status": "not_attempted", "message": SAYS["not_attempted"], "right": 0, "cases": len(asked)}
    if isinstance(exercise, Training):
        return _trained(exercise, asked[0], answers, trouble)
    said = {n: judge(exercise, asked[n], value) for n, value in sorted(answers.items())}
    right = sum(what is None for what in said.values())
    if right == len(asked):
        status, message = "ok", ""
    elif trouble:
        status, message = trouble
    elif empty:
        status, message = (
            "wrong",
            "it returns nothing for some inputs: every path through the function needs a return",
        )
    else:
        order = sorted(answers)
        status = "wrong"
        message = mistake(exercise, [asked[n] for n in order], [answers[n] for n in order]) or next(
            (what for what in said.values() if what is not None), SAYS["wrong"]
        )
    return {"status": status, "message": message, "right": right, "cases": len(asked)}


def _trained(
    training: Training, posing: Any, answers: dict[int, Any], trouble: tuple[str, str] | None
) -> dict[str, Any]:
    if not answers:
        status, message = trouble or ("wrong", SAYS["wrong"])
        return {"status": status, "message": message, "right": 0, "cases": 1}
    scored = training.scored(posing, answers[0])
    done = scored.share == 1.0
    return {
        "status": "ok" if done else "wrong",
        "message": scored.message or ("" if done else SAYS["wrong"]),
        "right": int(done),
        "cases": 1,
        "share": scored.share,
        "measured": scored.measured,
    }


def _own(record: dict[str, Any]) -> str:
    status = record.get("status")
    return status if isinstance(status, str) and status in OWN else "error"


def _message(record: dict[str, Any]) -> str:
    kind, text = _plain(record.get("kind"), 60), _plain(record.get("text"), 200)
    line = record.get("line")
    where = f" in line {line}" if type(line) is int and 0 < line < 100_000 else ""
    if not kind and not text:
        return SAYS[_own(record)]
    return f"{kind}{where}{': ' if kind and text else ''}{text}"


def _bare(record: dict[str, Any]) -> str:
    r"""As `_message`, for a moment at which the secret questions were known: no text that could carry them out."""
    kind, line = record.get("kind"), record.get("line")
    known = getattr(builtins, kind, None) if isinstance(kind, str) else None
    kind = kind if isinstance(known, type) and issubclass(known, BaseException) else "an exception of its own"
    if kind == "EOFError":
        return "it calls input(), and there is nobody to type an answer"
    return f"it raised {kind}" + (f" in line {line} of the cell" if type(line) is int and 0 < line < 1000 else "")


def _plain(text: Any, most: int) -> str:
    r"""A stranger's text on one line: printable, short, without addresses in memory."""
    text = text if isinstance(text, str) else ""
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
    return " ".join(re.sub(r"\b0x[0-9a-f]{6,}", "0x…", text).split())[:most]
