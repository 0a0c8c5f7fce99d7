r"""The folder of a batch's results. Nothing in it is overwritten but what a run wrote there itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.files import alone, replace_text

#: Notes on what was written: file name -> fingerprints of the last two versions, and of the cells in them.
_NOTES = ".written.json"
#: What a batch writes besides the notebooks and their pages.
REPORTS = ("summary.json", "index.html")


class Folder:
    r"""A folder that results go to."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._written = self._notes()

    def refuse_to_harm(self, notebooks: Iterable[Path]) -> None:
        r"""Raise CourseError, and touch nothing, if results of `notebooks` would overwrite somebody's own files."""
        notebooks = list(notebooks)
        for notebook in notebooks:
            if _same(self.path, notebook.absolute().parent):
                raise CourseError(
                    f"{self.path} is the folder of {notebook.name} itself, which its result would overwrite: "
                    "choose another folder for the results, such as runs"
                )
        names = [name for notebook in notebooks for name in (notebook.name, f"{notebook.stem}.html")]
        for name in [*names, *REPORTS]:
            if any(_same(self.path / name, notebook) for notebook in notebooks):
                raise CourseError(
                    f"{self.path / name} is the notebook itself, which its result would overwrite: "
                    "choose another folder for the results, such as runs"
                )
            self._refuse_foreign(name)

    @contextmanager
    def opened(self) -> Iterator[None]:
        r"""Makes the folder and holds it: two batches would overwrite each other's summary."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CourseError(f"cannot make the folder {self.path}: {error.strerror}") from error
        with alone(self.path / ".lock", self.path):
            self._written = self._notes()
            try:
                replace_text(self.path / _NOTES, json.dumps(self._written))
            except OSError as error:
                raise CourseError(f"cannot write to {self.path}: {error.strerror}") from error
            yield

    def put(self, name: str, made: Path) -> None:
        r"""Moves the file `made` to `name`. Raises CourseError where something of somebody's own is there by now."""
        self._refuse_foreign(name)
        self._note(name, made)  # first, so that whatever happens next the file is known
        os.replace(made, self.path / name)

    def put_text(self, name: str, text: str) -> None:
        r"""Writes `text` to `name`, as `put` does."""
        made = self.path / f".{name}.part"
        made.write_text(text, encoding="utf-8")
        self.put(name, made)

    def holds(self, name: str) -> bool:
        r"""Whether `name` is there as it was written, byte for byte."""
        try:
            return _version(self.path / name) in self._written.get(name, {}).get("versions", [])
        except OSError:
            return False

    def _refuse_foreign(self, name: str) -> None:
        path = self.path / name
        if os.path.lexists(path) and not self.holds(name) and not self._without_work(path):
            how = "was changed after the run that wrote it" if name in self._written else "is not from a run"
            raise CourseError(
                f"{path} {how}, and would be overwritten: move it away, or choose another folder for the results"
            )

    def _without_work(self, path: Path) -> bool:
        r"""Whether a result that was written here has lost something since, and gained nothing: an emptied notebook."""
        known = self._written.get(path.name)
        if known is None or path.is_symlink() or not path.is_file():
            return False
        cells = _cells(path)
        return path.stat().st_size == 0 or (cells is not None and set(cells) <= set(known["cells"]))

    def _note(self, name: str, made: Path) -> None:
        before = self._written.get(name, {"versions": [], "cells": []})
        versions = [*before["versions"][-1:], _version(made)]
        cells = _cells(made) if made.suffix == ".ipynb" else None
        self._written[name] = {"versions": versions, "cells": cells or []}
        replace_text(self.path / _NOTES, json.dumps(self._written))

    def _notes(self) -> dict[str, dict[str, list[str]]]:
        try:
            found = json.loads((self.path / _NOTES).read_text(encoding="utf-8"))
            return {
                n: {"versions": [*kept["versions"]], "cells": [*kept["cells"]]} for n, kept in found.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def _same(one: Path, other: Path) -> bool:
    r"""Whether both are one thing on the disk, however they are called: by a link, through "..", in other letters."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there
        return False


def _cells(path: Path) -> list[str] | None:
    r"""Fingerprints of the cells' sources; None for what is no notebook."""
    try:
        cells: list[Any] = json.loads(path.read_bytes())["cells"]
        return [_digest("".join(cell["source"]).encode()) for cell in cells]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _version(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]
