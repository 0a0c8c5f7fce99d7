r"""Runs in a file, one JSON line each. A line is written whole; an incomplete last line is discarded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.files import alone

Line = dict[str, Any]
#: How every line begins: what is torn is known by this, and nothing else is ever cut off.
BEGINS = b'{"purpose": "'


def read(path: str | Path) -> list[Line]:
    r"""The runs in `path`, in the order in which they were made. A torn last line is left out.

    Raises CourseError where there is no such file, and where it holds something else than runs.
    """
    return _parsed(_content(Path(path)), Path(path))[0]


@contextmanager
def added_to(path: str | Path) -> Iterator[Runs]:
    r"""The runs in `path`, which nobody else adds to during the `with`: two at once would make each run twice.

    Raises CourseError where another process, or another part of this one, is at work on the file; and as `Runs` does.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot("write", path, error) from error
    with alone(path.with_name(f".{path.name}.lock"), path):
        yield Runs(path)


class Runs:
    r"""The runs in a file, to be added to.

    lines: those in it already, [] if there is no file. torn: whether it ends in the middle of a run; that end is cut
    off when the next run is added, and not before. Raises CourseError, and changes nothing, for a file that holds
    something else or cannot be written.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            there = self.path.exists()
        except OSError as error:
            raise _cannot("read", self.path, error) from error
        content = _content(self.path) if there else b""
        self.lines, end = _parsed(content, self.path)
        self.torn = end < len(content)
        self._end = end if self.torn else None
        self._first = b"" if content[:end].endswith(b"\n") or not end else b"\n"
        self._try_to_write(there)

    def append(self, line: Mapping[str, Any]) -> None:
        r"""Add one run. It is in the file, and on the disk, when this returns; else the file is as it was."""
        text = json.dumps(line, ensure_ascii=False, allow_nan=False)
        try:
            with self.path.open("ab", buffering=0) as file:
                if self._end is not None:
                    file.truncate(self._end)
                start = file.seek(0, os.SEEK_END)
                try:
                    rest = memoryview(self._first + f"{text}\n".encode())
                    while rest:
                        rest = rest[file.write(rest) :]
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(start)
                    raise
        except OSError as error:
            raise _cannot("write", self.path, error) from error
        self._end, self._first, self.torn = None, b"", False
        self.lines.append(dict(line))

    def _try_to_write(self, there: bool) -> None:
        r"""Before hours of work, and not after."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab"):
                pass
            if not there:
                self.path.unlink()
        except OSError as error:
            raise _cannot("write", self.path, error) from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _cannot("read", path, error) from error


def _parsed(content: bytes, path: Path) -> tuple[list[Line], int]:
    r"""The runs, and where the last of them ends: what follows is torn. CourseError for anything else."""
    end = content.rfind(b"\n") + 1
    texts, tail = content[:end].splitlines(), content[end:]
    lines = []
    for number, text in enumerate(texts, start=1):
        if (line := _run(text)) is None:
            raise _no_run(number, path)
        lines.append(line)
    if tail and (line := _run(tail)) is not None:  # whole, and only its end of line is missing
        return [*lines, line], len(content)
    if tail and not (tail.startswith(BEGINS) or BEGINS.startswith(tail)):
        raise _no_run(len(lines) + 1, path)
    return lines, end


def _run(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and {"purpose", "method", "seed", "lr"} <= line.keys() else None


def _no_run(number: int, path: Path) -> CourseError:
    return CourseError(f"line {number} of {path} is no run of `coursekit compare`: give another file")


def _cannot(verb: str, path: Path, error: OSError) -> CourseError:
    return CourseError(f"cannot {verb} {path}: {error.strerror}")
