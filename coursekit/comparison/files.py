r"""Runs in a file, one JSON line each. A line is written whole; one that was torn is no run, and makes way."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError

Line = dict[str, Any]


def read(path: str | Path) -> list[Line]:
    r"""The runs in `path`, in the order in which they were made. A torn last line is left out.

    Raises CourseError where there is no such file, and where it holds something else than runs.
    """
    whole, _ = _parts(_content(Path(path)))
    return _parsed(whole, Path(path))


def resume(path: Path) -> tuple[list[Line], bool]:
    r"""The runs in `path`, ready to be added to: [] if there is no file, and whether a torn last line was cut off."""
    if not path.exists():
        return [], False
    whole, torn = _parts(_content(path))
    lines = _parsed(whole, path)  # a file that is none of ours is left as it is
    if torn:
        try:
            os.truncate(path, len(whole))
        except OSError as error:
            raise _cannot("write", path, error) from error
    return lines, bool(torn)


def append(path: Path, line: Mapping[str, Any]) -> None:
    r"""Add one run. It is in the file, and on the disk, when this returns."""
    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            file.write(f"{text}\n".encode())
            os.fsync(file.fileno())
    except OSError as error:
        raise _cannot("write", path, error) from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _cannot("read", path, error) from error


def _parts(content: bytes) -> tuple[bytes, bytes]:
    r"""The whole lines, and what follows the last end of a line."""
    end = content.rfind(b"\n") + 1
    return content[:end], content[end:]


def _parsed(whole: bytes, path: Path) -> list[Line]:
    lines = []
    for number, text in enumerate(whole.splitlines(), start=1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or not {"purpose", "method", "seed", "lr"} <= line.keys():
            raise CourseError(f"line {number} of {path} is no run of `coursekit compare`: give another file")
        lines.append(line)
    return lines


def _cannot(verb: str, path: Path, error: OSError) -> CourseError:
    return CourseError(f"cannot {verb} {path}: {error.strerror}")
