r"""Marks on arrival: a folder is looked at again and again, and what is new in it is graded."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from itertools import count, islice
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.grading import bench
from coursekit.grading.batch import grade_lines
from coursekit.grading.collect import collect, shown_points
from coursekit.grading.folder import Batch
from coursekit.grading.gate import MOST_FILES


def watch(
    folder: Path,
    batch: Batch,
    plan: Callable[[Collection[str]], Any],
    tell: Callable[[str], None],
    *,
    seconds: float = 5.0,
    jobs: int = 1,
    anonymous: bool = False,
    rounds: int | None = None,
    sleep: Callable[[float], Any] = time.sleep,
) -> None:
    r"""Every so many `seconds`: plan, grade what has no mark, collect; for good, or `rounds` times.

    A submission counts as arrived when it has not changed from one look to the next; until then, what the student
    handed in before goes on to count. plan: writes the manifest without the names that it is given. What cannot be put
    right here, such as an empty folder or a roster with a mistake, is told once and tried again.
    """
    before, done, told, assignment = dict[str, Any](), None, "", ""
    try:
        for number in islice(count(), rounds):
            sleep(seconds if number else 0)
            now = {p.name: _state(p) for p in folder.iterdir()} if folder.is_dir() else {}
            arriving = {name for name, state in now.items() if before.get(name) != state}
            before, settled = now, {name: state for name, state in now.items() if name not in arriving}
            if not settled or settled == done:
                continue
            try:
                plan(arriving)
                new = [n for n in batch.lines() if n["key"] and batch.result(n["key"]) is None]
                if assignment != (assignment := batch.assignment.read_text(encoding="utf-8")):
                    bench.close(batch.out)  # the course itself has changed
                grade_lines(batch, jobs=jobs, keep=True)
                entries = collect(batch.out, anonymous)
            except CourseError as error:
                if str(error) != told:
                    tell(f"coursekit: {error}")
                told = str(error)
                continue
            done, told = settled, ""
            ids = {n["submission"] for n in new}
            for entry in entries:
                if entry.id in ids:
                    tell(f"{time.strftime('%H:%M:%S')} {entry.id}: {shown_points(entry)}, {entry.message}")
    finally:
        bench.close(batch.out)


def _state(path: Path) -> Any:
    r"""Changes while a file or a folder is written to."""
    files = [path] if path.is_symlink() or not path.is_dir() else islice(path.rglob("*"), 10 * MOST_FILES)
    found = []
    for file in files:
        try:
            kind = file.lstat()
        except OSError:  # it has just gone
            continue
        found.append((str(file), kind.st_size, kind.st_mtime_ns))
    return sorted(found)
