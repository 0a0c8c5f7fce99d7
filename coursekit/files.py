r"""Files that are written whole or not at all, by one process at a time, and never over somebody's work."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError

#: Notes on what was written: file name -> fingerprints of the last two versions, and of the cells in them.
_NOTES = ".written.json"


def replace_text(path: Path, text: str, mode: int = 0o666) -> None:
    r"""Write `text` to `path`, whole or not at all, whoever else writes there and whatever ends this process.

    mode: who may read a file that was not there, less what the process's umask takes away.
    """
    with _written_beside(path, text, mode) as part:
        os.replace(part, path)


def put_text(path: str | Path, text: str, *, sources: Iterable[Path] = ()) -> None:
    r"""Write `text` to `path`, where nothing is or what an earlier call wrote there and nobody has changed since.

    Raises CourseError, and touches nothing, where it would overwrite anything else, or, by whatever link, one of the
    `sources` that `text` was made from; likewise where it cannot be written.
    """
    path = Path(path)
    folder = Folder(folder_at(path.parent))
    folder.refuse_to_harm([path.name], sources)
    try:
        folder.put_text(path.name, text)
    except OSError as error:
        raise CourseError(f"cannot write {path}: {error.strerror}") from error


class Folder:
    r"""A folder that results go to. Nothing in it is overwritten but what was written there through this class.

    A file is called by its path below the folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._written = self._notes()

    @contextmanager
    def opened(self) -> Iterator[None]:
        r"""Makes the folder and holds it, so that two batches do not overwrite each other's summary."""
        folder_at(self.path)
        with alone(self.path / ".lock", self.path):
            self._written = self._notes()
            try:
                replace_text(self.path / _NOTES, json.dumps(self._written))
            except OSError as error:
                raise CourseError(f"cannot write to {self.path}: {error.strerror}") from error
            yield

    def refuse_to_harm(self, names: Iterable[str], sources: Iterable[Path]) -> None:
        r"""CourseError if one of the files `names` is one of the `sources`, or somebody's own."""
        sources = list(sources)
        for path in (self.path / name for name in names):
            if source := next((s for s in sources if same(path, s)), None):
                raise CourseError(
                    f"{path} is {source.name} itself, which its result would overwrite: give another place"
                )
            self._refuse_foreign(path)

    def put(self, name: str, made: Path) -> None:
        r"""Moves the file `made` to `name`. Raises CourseError where something of somebody's own is there by now."""
        self._refuse_foreign(self.path / name)
        self._note(name, made)  # first, so that whatever happens next the file is known
        os.replace(made, self.path / name)

    def put_text(self, name: str, text: str) -> None:
        r"""Writes `text` to `name`, as `put` does."""
        with _written_beside(self.path / name, text) as made:
            self.put(name, made)

    def holds(self, name: str) -> bool:
        r"""Whether `name` is there as it was written, byte for byte."""
        try:
            return sha256_of(self.path / name) in self._written.get(name, {}).get("versions", [])
        except OSError:
            return False

    def _refuse_foreign(self, path: Path) -> None:
        name = path.relative_to(self.path).as_posix()
        if os.path.lexists(path) and not self.holds(name) and not self._without_work(name):
            how = "was changed since coursekit wrote it" if name in self._written else "is not coursekit's own"
            raise CourseError(f"{path} {how}, and would be overwritten: move it away, or give another place")

    def _without_work(self, name: str) -> bool:
        r"""Whether a result that was written here has lost something since, and gained nothing: an emptied notebook."""
        known, path = self._written.get(name), self.path / name
        if known is None or path.is_symlink() or not path.is_file():
            return False
        cells = _cells(path)
        return path.stat().st_size == 0 or (cells is not None and set(cells) <= set(known["cells"]))

    def _note(self, name: str, made: Path) -> None:
        before = self._written.get(name, {"versions": [], "cells": []})
        versions = [*before["versions"][-1:], sha256_of(made)]
        cells = _cells(made) if name.endswith(".ipynb") else None
        self._written[name] = {"versions": versions, "cells": cells or []}
        replace_text(self.path / _NOTES, json.dumps(self._written))

    def _notes(self) -> dict[str, dict[str, list[str]]]:
        try:
            found = json.loads((self.path / _NOTES).read_text(encoding="utf-8"))
            return {n: {"versions": [*kept["versions"]], "cells": [*kept["cells"]]} for n, kept in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


@contextmanager
def replaced_files(folder: str | Path, what: str, old: str = "") -> Iterator[Path]:
    r"""A folder for new files, which at the end of a `with` take the places of those of the same names in `folder`.

    old: a pattern of files that go where no new one has their name: a model's that was cut into other pieces. Nothing
    has changed where one of the new cannot be written: CourseError, as for a folder that cannot be.
    """
    from safetensors import SafetensorError

    folder = folder_at(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as part:
            yield Path(part)
            new = sorted((file.name for file in Path(part).iterdir()), reverse=True)  # tensors before their config
            for name in new:
                os.replace(Path(part, name), folder / name)
            for file in folder.glob(old) if old else ():
                if file.name not in new:
                    file.unlink()
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk shows as any of them
        raise CourseError(f"cannot write {what} to {folder}: {error}; what was there is unchanged") from error


def same(one: Path, other: Path) -> bool:
    r"""Whether both are one thing on the disk, however they are called: by a link, through "..", in other letters."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there
        return False


def folder_at(path: str | Path) -> Path:
    r"""The folder `path`, made where there is none. CourseError where a file is in its place, or it cannot be made."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"{folder} cannot be a folder to write to ({error.strerror}); give another.") from error
    return folder


def alone(lock: Path, target: Path) -> AbstractContextManager[Any]:
    r"""Holds the file `lock` for the length of a `with`: nobody else is to write to `target`.

    Raises CourseError where another process, or another part of this one, holds it, or where it cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        return FileLock(lock).acquire(timeout=0)  # released at the end of a `with`
    except Timeout as error:
        raise CourseError(f"another run is writing to {target}: wait for it, or write to another place") from error
    except OSError as error:
        raise CourseError(f"cannot write to {target}: {error.strerror}") from error


@contextmanager
def _written_beside(path: Path, text: str, mode: int = 0o666) -> Iterator[Path]:
    r"""`text` on the disk, in a file that is to be moved to `path`; it is gone where that fails."""
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        yield part
    finally:
        part.unlink(missing_ok=True)


def _cells(path: Path) -> list[str] | None:
    r"""Fingerprints of the cells' sources; None for what is no notebook."""
    try:
        cells: list[Any] = json.loads(path.read_bytes())["cells"]
        return [hashlib.sha256("".join(c["source"]).encode()).hexdigest()[:24] for c in cells]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def sha256_of(path: Path) -> str:
    r"""The SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
