r"""Marks on arrival: a folder is looked at again and again, and what is new in it is graded."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable
from itertools import count, islice
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.grading import bench
from coursekit.grading.batch import grade_lines
from coursekit.grading.collect import collect, shown_points
from coursekit.grading.folder import Batch
from coursekit.grading.gate import MOST_FILES
from coursekit.grading.submissions import files_in

#: Looks at the folder before what the grader itself failed at is tried again.
PAUSE = 12


def watch(
    folder: Path, batch: Batch, plan: Callable[[Collection[str]], Any], tell: Callable[[str], None], *,
    seconds: float = 5.0, jobs: int = 1, anonymous: bool = False, rounds: int | None = None,
    sleep: Callable[[float], Any] = time.sleep,
) -> None:  # fmt: skip
    r"""Every so many `seconds`: plan, grade what has no mark, collect; for good, or `rounds` times.

    A submission counts as arrived when it has not changed from one look to the next; until then, what the student
    handed in before goes on to count. plan: writes the manifest without the names that it is given. What cannot be put
    right here, such as an empty folder or a roster with a mistake, is told once and tried again; so is, after `PAUSE`
    looks, what the grader itself failed at.
    """
    before, done, assignment = dict[str, Any](), None, ""
    told, again = set[str](), 0
    try:
        for number in islice(count(), rounds):
            sleep(seconds if number else 0)
            try:
                now = {p.name: _state(p) for p in folder.iterdir()} if folder.is_dir() else {}
                arriving = {name for name, state in now.items() if before.get(name) != state}
                before, settled = now, {name: state for name, state in now.items() if name not in arriving}
                if not settled or (settled == done and number < again):
                    continue
                plan(arriving)
                new = [n for n in batch.lines() if n["key"] and batch.result(n["key"]) is None]
                if assignment != (assignment := batch.assignment.read_text(encoding="utf-8")):
                    bench.close(batch.out)  # the course itself has changed
                grade_lines(batch, jobs=jobs, keep=True)
                entries = collect(batch.out, anonymous)
                failed = {n["submission"] for n in new if batch.result(n["key"]) is None}
            except (CourseError, OSError) as error:
                if str(error) not in told:
                    tell(f"coursekit: {error}")
                told.add(str(error))
                continue
            done, again = settled, number + PAUSE if failed else sys.maxsize
            if failed:
                bench.close(batch.out)  # whatever state it is in
            told = {line for line in told if line in failed}
            ids = {n["submission"] for n in new} - told
            for entry in entries:
                if entry.id in ids:
                    why = f" ({batch.why()})" if entry.id in failed else ""
                    what = f"{entry.id}: {shown_points(entry)}, {entry.message}{why}"
                    tell(f"{time.strftime('%H:%M:%S')} {what}")
            told |= failed
    finally:
        bench.close(batch.out)


def _state(path: Path) -> Any:
    r"""Changes while a file or a folder is written to."""
    files: Iterable[Path] = [path]
    if path.is_dir() and not path.is_symlink():
        files = islice(files_in(path), 10 * MOST_FILES)
    found = []
    for file in files:
        try:
            kind = file.lstat()
        except OSError:  # it has just gone
            continue
        found.append((str(file), kind.st_size, kind.st_mtime_ns))
    return sorted(found)
