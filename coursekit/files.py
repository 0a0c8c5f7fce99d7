r"""Files that are written whole or not at all, and by one process at a time."""

from __future__ import annotations

import os
import secrets
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError


def replace_text(path: Path, text: str, mode: int = 0o666) -> None:
    r"""Write `text` to `path`, whole or not at all, whoever else writes there and whatever ends this process.

    mode: who may read a file that was not there, less what the process's umask takes away.
    """
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def folder_at(path: str | Path) -> Path:
    r"""The folder `path`, made where there is none. CourseError where a file is in its place, or it cannot be made."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(
            f"{folder} cannot be a folder to write to ({error.strerror}); give another."
        ) from error
    return folder


def alone(lock: Path, target: Path) -> AbstractContextManager[Any]:
    r"""Holds the file `lock` for the length of a `with`: nobody else is to write to `target`.

    Raises CourseError where another process, or another part of this one, holds it, or where it cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        return FileLock(lock).acquire(timeout=0)  # released at the end of a `with`
    except Timeout as error:
        raise CourseError(
            f"another run is writing to {target}: wait for it, or write to another place"
        ) from error
    except OSError as error:
        raise CourseError(f"cannot write to {target}: {error.strerror}") from error
