r"""Which submissions lie in a folder, and whose they are. Names are text for people, never paths to write to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from coursekit.errors import CourseError
from coursekit.grading import tables


@dataclass(frozen=True)
class Submission:
    r"""`path` is None for somebody on the roster who handed in nothing; `person` is the line of the roster."""

    id: str
    path: Path | None
    submitted: str | None = None
    person: dict[str, str] = field(default_factory=dict)


def find(folder: Path, roster: Path | None = None) -> list[Submission]:
    r"""The submissions in `folder`: each a notebook, a zip or a folder, called by its student's id.

    Also as learning platforms name their downloads: an id of the roster between underscores counts
    (`doejane_4711_99_06_lora.ipynb`, `Jane Doe_4711_assignsubmission_file_`). Of two by one student the newest counts.
    """
    if not folder.is_dir():
        raise CourseError(f"there is no folder {folder} with submissions")
    people = read_roster(roster) if roster is not None else {}
    newest: dict[str, tuple[float, str, Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda p: p.name.encode("utf-8", "surrogateescape")):
        if path.name.startswith(".") or not (
            path.is_symlink() or path.is_dir() or path.suffix in (".ipynb", ".zip")
        ):
            continue
        id = _whose(path, people)
        entry = (path.lstat().st_mtime, path.name, path)
        newest[id] = max(newest.get(id, entry), entry, key=lambda e: e[:2])
    found = [
        Submission(id, path, _time(when), people.get(id, {}))
        for id, (when, _, path) in sorted(newest.items())
    ]
    if not found:
        raise CourseError(f"there are no submissions in {folder}: no notebook, no zip, no folder")
    return found + [
        Submission(id, None, None, person) for id, person in sorted(people.items()) if id not in newest
    ]


def read_roster(path: Path) -> dict[str, dict[str, str]]:
    r"""The people of a CSV file with a column `id`, by that id."""
    _, rows = tables.read(path, needed=["id"])
    people: dict[str, dict[str, str]] = {}
    for row in rows:
        id = row["id"].strip()
        if not id or id in people:
            raise CourseError(
                f"the roster {path} has {'a line without an id' if not id else f'the id {id!r} twice'}"
            )
        people[id] = row
    return people


def digest(path: Path) -> str:
    r"""SHA-256 of all that was handed in, read in pieces; links count by where they point."""
    found = hashlib.sha256()
    files = [path] if path.is_symlink() or not path.is_dir() else sorted(path.rglob("*"))
    for file in files:
        found.update(b"\0" + str(file.relative_to(path.parent)).encode("utf-8", "surrogateescape") + b"\0")
        if file.is_symlink():
            found.update(b"link" + str(file.readlink()).encode("utf-8", "surrogateescape"))
        elif file.is_file():
            with file.open("rb") as stream:
                while part := stream.read(1 << 20):
                    found.update(part)
    return found.hexdigest()


def _whose(path: Path, people: dict[str, dict[str, str]]) -> str:
    name = path.name if path.is_dir() and not path.is_symlink() else path.stem
    if name in people:
        return name
    parts = {part for part in name.split("_") if part in people}
    if len(parts) == 1:
        return parts.pop()
    plain = name.encode("utf-8", "replace").decode()
    plain = "".join(c if c.isprintable() else "?" for c in plain)
    if plain != name:  # two unprintable names stay two
        plain += "-" + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return plain


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
