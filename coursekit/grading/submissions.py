r"""Which submissions lie in a folder, and whose they are. Names are text for people, never paths to write to."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from coursekit.errors import CourseError
from coursekit.grading import gate, tables
from coursekit.grading.gate import MOST_TOGETHER, shown

#: The names of platforms' downloads, Canvas's and Moodle's: an id stands in one of the two fields or nowhere, as the
#: numbers behind them are the platform's own.
_PLATFORMS = (
    re.compile(r"(.+?)(?:_LATE)?_(\d+)_\d+_.+", re.DOTALL),
    re.compile(r"(.+)_([^_]+)_assignsubmission_(?:file|onlinetext)_.*", re.DOTALL),
)
#: What a computer put there, not a student.
_NOBODY_S = re.compile(r"__MACOSX|\._.*|\.DS_Store|\.ipynb_checkpoints|\.git.*")


@dataclass(frozen=True)
class Submission:
    r"""`path` is None for somebody on the roster who handed in nothing; `person` is the line of the roster.

    unmatched: why it is nobody's on the roster. group: whose it is too, where several hand in one.
    """

    id: str
    path: Path | None
    submitted: str | None = None
    person: dict[str, str] = field(default_factory=dict)
    unmatched: str = ""
    group: str = ""


@dataclass(frozen=True)
class Found:
    r"""said: what whoever grades should read, a line each."""

    submissions: list[Submission]
    said: list[str]


def find(
    folder: Path, roster: Path | None = None, groups: Path | None = None, every: bool = False,
    without: Collection[str] = (), notebooks: Collection[str] = (),
) -> Found:  # fmt: skip
    r"""The submissions in `folder`: each a notebook, a zip or a folder, called by its student's id.

    With a roster also names of which an id is a part between underscores (`06_lora_ann_b.ipynb`: the longest counts),
    and those of learning platforms (`doejane_4711_99_06_lora.ipynb`, `Jane Doe_4711_assignsubmission_file_`). What
    names nobody, or two, is graded under its own name, and said. Of several by one student, or one group, the newest
    counts that holds a notebook; with `every` all of these are there. Where one is called by the id alone, or by it and
    one of `notebooks` (`ann_06_lora.ipynb`), only such are the student's: others may be somebody's who is not on the
    roster. without: names that are not looked at.
    """
    if not folder.is_dir():
        raise CourseError(f"there is no folder {folder} with submissions")
    people = tables.by_id(roster) if roster is not None else {}
    member = _members(groups)
    people |= {id: {"id": id} for id in member if id not in people and roster is None}
    if unknown := sorted(set(member) - set(people)):
        raise CourseError(f"{groups}: {', '.join(unknown[:5])}: not on the roster {roster}")
    whose = _Names(people, member, notebooks)
    said: list[str] = []
    claims: dict[str, list[tuple[bool, float, str, Path]]] = defaultdict(list)
    unmatched: dict[str, str] = {}
    for path in sorted(folder.iterdir(), key=lambda p: p.name.encode("utf-8", "surrogateescape")):
        if _NOBODY_S.fullmatch(path.name) or path.name in without:
            continue
        stem = path.name if path.is_dir() and not path.is_symlink() else path.stem
        owner, exact, why = whose.of(stem)
        if not (path.is_symlink() or path.is_dir() or path.suffix.lower() in (".ipynb", ".zip")) or (
            path.name.startswith(".") and owner is None
        ):
            said += [f"{shown(path.name)}: passed over, neither a notebook nor a zip nor a folder"]
            continue
        if owner is None:
            owner = _plain(stem)
            if people:
                unmatched[owner] = why
        try:
            when = path.lstat().st_mtime
        except OSError as error:  # it has gone since it was listed
            said.append(f"{owner}: {shown(path.name)} was passed over: {error.strerror}")
            continue
        claims[owner].append((exact, when, path.name, path))
    for owner, mine in [*claims.items()]:
        if any(exact for exact, *_ in mine):
            for claim in [c for c in mine if not c[0]]:
                mine.remove(claim)
                stem = claim[3].stem if claim[3].suffix and not claim[3].is_dir() else claim[3].name
                claims[_plain(stem)].append(claim)
                unmatched[_plain(stem)] = f"{owner} handed in a file under the id alone"
    found = []
    for owner, mine in sorted(claims.items()):
        best = max(mine, key=lambda c: (holds_a_notebook(c[3]), *c[1:3]))
        if len(mine) > 1 and not every:
            rest = ", ".join(shown(c[2]) for c in mine if c is not best)
            said.append(f"{owner}: {shown(best[2])} counts, the newest; not {rest}")
        if owner in unmatched:
            said.append(f"{owner}: nobody's on the roster ({unmatched[owner]}): rename it to the id")
        for id in whose.ids_of(owner):
            group = owner if id != owner else ""
            for _, when, _, path in [c for c in mine if holds_a_notebook(c[3])] or [best] if every else [best]:
                person = people.get(id, {})
                found.append(Submission(id, path, _time(when), person, unmatched.get(owner, ""), group))
    if not found:
        raise CourseError(f"there are no submissions in {folder}: no notebook, no zip, no folder")
    there = {one.id for one in found}
    nobody = [Submission(id, None, None, person) for id, person in sorted(people.items()) if id not in there]
    return Found(sorted(found, key=lambda one: one.id) + nobody, said)


class _Names:
    r"""Whose a name is: of a person, or of the group whose member that is. Case and the two ways to write an umlaut
    count only where they tell two people apart.
    """

    def __init__(self, people: Iterable[str], member: dict[str, str], notebooks: Iterable[str]) -> None:
        self._members: dict[str, list[str]] = defaultdict(list)
        for id, group in member.items():
            self._members[group].append(id)
        self._owner = {id: member.get(id, id) for id in people} | {group: group for group in self._members}
        self._notebooks = [_folded(stem) for stem in notebooks]
        self._alike: dict[str, set[str]] = defaultdict(set)
        for name, owner in self._owner.items():
            self._alike[_folded(name)].add(owner)

    def ids_of(self, owner: str) -> list[str]:
        r"""The people who get its marks."""
        return self._members.get(owner, [owner])

    def of(self, name: str) -> tuple[str | None, bool, str]:
        r"""The owner, or None; whether `name` is an id, or that and a notebook; why it is nobody's."""
        if exact := self._one(name):
            return exact, True, ""
        for platform in _PLATFORMS:
            if fields := platform.fullmatch(name):
                hits = {field: owner for field in fields.groups() if (owner := self._one(field))}
                break
        else:
            hits = self._parts(name.split("_")[:40])
        owners = set(hits.values())
        if len(owners) == 1:
            ids, name = [_folded(hit) for hit in hits], _folded(name)
            whole = {n for id in ids for stem in self._notebooks for n in (f"{id}_{stem}", f"{stem}_{id}")}
            return owners.pop(), name in whole, ""
        return None, False, f"it names {' and '.join(sorted(hits))}" if owners else "it names nobody"

    def _one(self, name: str) -> str | None:
        if name in self._owner:
            return self._owner[name]
        alike = self._alike.get(_folded(name), set())
        return next(iter(alike)) if len(alike) == 1 else None

    def _parts(self, parts: list[str]) -> dict[str, str]:
        r"""The ids that whole parts make up, without those that are part of a longer one."""
        spans = [(i, j) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)]
        hits = {(i, j): owner for i, j in spans if (owner := self._one("_".join(parts[i:j])))}
        longest = [(i, j) for i, j in hits if not any(k <= i and j <= m and m - k > j - i for k, m in hits)]
        return {"_".join(parts[i:j]): hits[i, j] for i, j in longest}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _members(groups: Path | None) -> dict[str, str]:
    r"""id -> group, of a CSV file with these columns."""
    found: dict[str, str] = {}
    for line, row in enumerate(tables.read(groups, ("group", "id"))[1] if groups else (), start=2):
        id, group = row["id"].strip(), row["group"].strip()
        if not id or not group or id in found:
            what = f"{id} is there twice" if id in found else "it needs a group and an id"
            raise CourseError(f"{groups}, line {line}: {what}")
        found[id] = group
    if alike := set(found) & set(found.values()):
        raise CourseError(f"{groups}: {min(alike)} is the name of a group and somebody's id")
    return found


def holds_a_notebook(path: Path) -> bool:
    r"""Whether there is something to grade: Moodle has a folder for a text beside that for the files."""
    if path.is_symlink() or not path.is_dir():
        return True
    return any(file.name.lower().endswith((".ipynb", ".zip")) for file in islice(files_in(path), 10_000))


def files_in(folder: Path) -> Iterator[Path]:
    r"""Every file below `folder`, but of folders that have gone or cannot be read."""
    return (Path(place, name) for place, _, names in os.walk(folder) for name in names)


def digest(path: Path) -> str:
    r"""SHA-256 of all that was handed in, read in pieces; links count by where they point. Of more than may be handed
    in only sizes count: it is refused unread. Raises OSError where it cannot be read.
    """
    path.lstat()  # what has gone is no empty file
    found = hashlib.sha256()
    files = [path] if path.is_symlink() or not path.is_dir() else sorted(path.rglob("*"))
    left = MOST_TOGETHER
    for file in files:
        found.update(b"\0" + str(file.relative_to(path.parent)).encode("utf-8", "surrogateescape") + b"\0")
        if file.is_symlink():
            found.update(b"link" + str(file.readlink()).encode("utf-8", "surrogateescape"))
        elif file.is_file() and not gate.left_out(file.relative_to(path).parts):
            size = file.stat().st_size
            if size > left:
                found.update(f"{size} {file.stat().st_mtime_ns}".encode())
                continue
            with file.open("rb") as stream:
                while part := stream.read(1 << 20):
                    found.update(part)
                    left -= len(part)
    return found.hexdigest()


def _plain(name: str) -> str:
    plain = name.encode("utf-8", "replace").decode()
    plain = "".join(c if c.isprintable() else "?" for c in plain)
    if plain != name:  # two unprintable names stay two
        plain += "-" + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return plain


def _time(seconds: float) -> str:
    seconds = min(max(seconds, 0.0), 4e9)  # a file's time is whatever its zip said
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
