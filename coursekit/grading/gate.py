r"""The gate: taking a submission apart (a notebook, a folder, a zip), and whether it is a notebook that can be run.

Nothing of it is executed, and names inside of it reach no path outside. What leaves the gate is a new notebook made of
the sources alone.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

#: Bytes of a notebook, and of any file that comes with it.
MOST = 20 * 2**20
MOST_FILES, MOST_CELLS = 200, 5_000
#: Characters of all code together: reading it as Python takes a thousand times as much memory.
MOST_CODE = 500_000
#: Bytes of all files of one submission together, and how much smaller a zip may be than what it holds.
MOST_TOGETHER = 50 * 2**20
MOST_DENSITY = 200


class Refused(Exception):
    r"""The submission is no notebook that can be run; the text is one line for the student."""


@dataclass(frozen=True)
class Cell:
    r"""A cell: its position in the notebook, counted from 1 over all cells, source, tags, kind and nbgrader's id."""

    number: int
    source: str
    tags: tuple[str, ...]
    kind: str = "code"
    id: str = ""


def read_file(path: Path, most: int = MOST) -> bytes:
    r"""The bytes of a regular file of at most `most`; no link is followed, no FIFO waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise Refused("it is a link, not a file: hand in the notebook itself") from error
        if error.errno == errno.ENXIO:
            raise Refused("it is not a regular file: hand in the notebook itself") from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        kind = os.fstat(file.fileno())
        if not stat.S_ISREG(kind.st_mode):
            raise Refused("it is not a regular file: hand in the notebook itself")
        if kind.st_size > most:
            raise Refused(
                f"it has {kind.st_size / 2**20:.0f} MB and the limit is {most / 2**20:.0f} MB: clear its outputs"
            )
        content = file.read(most + 1)
    if len(content) > most:
        raise Refused("it kept growing while it was being read")
    return content


def submitted(path: Path, notebook: str) -> tuple[dict[str, bytes], str, list[Cell]]:
    r"""The files of a submission, which one is its notebook, and the cells of that. Raises Refused or OSError."""
    found = files(path)
    name = the_notebook(found, notebook)
    return found, name, every_cell(found[name])


def notebook(content: bytes) -> list[Cell]:
    r"""The code cells of a notebook, from its bytes. Raises Refused with what is wrong with it."""
    return [cell for cell in every_cell(content) if cell.kind == "code"]


def every_cell(content: bytes) -> list[Cell]:
    r"""As `notebook`, with the cells that hold no code."""
    if len(content) > MOST:
        raise Refused(f"it has {len(content) / 2**20:.0f} MB and the limit is {MOST / 2**20:.0f} MB: clear its outputs")
    if not content.strip():
        raise Refused("the file is empty")
    try:
        text = content.decode(json.detect_encoding(content)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise Refused(f"it is not {error.encoding.upper()} text (byte {error.start}): save it with Jupyter") from error
    try:
        data = json.loads(text, parse_constant=float)
    except RecursionError as error:
        raise Refused("its JSON is too deeply nested") from error
    except ValueError as error:
        raise Refused(f"it is not valid JSON: {str(error)[:80]}") from error
    if not isinstance(data, dict) or not data:
        raise Refused("its JSON is not a notebook: a notebook is an object with cells")
    version = data.get("nbformat")
    if type(version) is not int or version != 4:
        shown = version if type(version) is int and abs(version) < 1000 else "none"
        raise Refused(f"its notebook format is {shown}, not 4: open it in Jupyter and save it again")
    cells = data.get("cells")
    if not isinstance(cells, list):
        raise Refused("it has no list of cells")
    if len(cells) > MOST_CELLS:
        raise Refused(f"it has {len(cells):,} cells and the limit is {MOST_CELLS:,}")
    found = [_cell(n, cell) for n, cell in enumerate(cells, start=1) if isinstance(cell, dict)]
    if sum(len(c.source) for c in found if c.kind == "code") > MOST_CODE:
        raise Refused(f"it has more than {MOST_CODE:,} characters of code")
    return found


def _cell(number: int, cell: dict[str, Any]) -> Cell:
    r"""One whose source is no text takes nothing else along: it stands there without its source."""
    source = cell.get("source")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    source = source if isinstance(source, str) else ""
    source = source.encode("utf-8", "backslashreplace").decode()  # half of a character, which JSON can spell
    metadata = cell.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    tags, grade = metadata.get("tags"), metadata.get("nbgrader")
    tags = tuple(t for t in tags if isinstance(t, str)) if isinstance(tags, list) else ()
    kind, id = cell.get("cell_type"), grade.get("grade_id") if isinstance(grade, dict) else None
    return Cell(number, source, tags, *(text if isinstance(text, str) else "" for text in (kind, id)))


#: Folders that programs leave beside a notebook, whatever lies in them.
_LEFT = re.compile(r"\..*|__MACOSX|__pycache__")


def left_out(parts: Iterable[str]) -> bool:
    r"""Whether a file at this place is none of the submission: `.git`, `.ipynb_checkpoints`, a Mac's `._notes.txt`."""
    return any(_LEFT.fullmatch(part) for part in parts)


def files(path: Path) -> dict[str, bytes]:
    r"""The files of a submission, by their relative names: of a folder, a zip, or the one file itself.

    A folder, or a zip, that has no notebook but one zip is that zip: so Moodle hands over homework.zip.
    """
    found = _limited(_contents(path))
    zips = [name for name in found if name.lower().endswith(".zip")]
    if len(zips) == 1 and not _notebooks(found):
        found |= _limited(_zip(found.pop(zips[0])))
    return found


def _limited(contents: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    together = 0
    for name, content in contents:
        together += len(content)
        if together > MOST_TOGETHER:
            raise Refused(f"its files are larger than {MOST_TOGETHER // 2**20} MB in total")
        if len(found) >= MOST_FILES:
            raise Refused(f"it has more than {MOST_FILES} files beside the notebook: hand in what it needs")
        found[name] = content
    return found


def _notebooks(names: Iterable[str]) -> list[str]:
    return [n for n in names if n.lower().endswith(".ipynb")]


def the_notebook(names: Iterable[str], wanted: str) -> str:
    r"""Which of the files is the submission: the only notebook; else the one that is called as the assignment is, or
    whose name holds that; in the outermost folder of several.
    """
    notebooks = _notebooks(names)
    if not notebooks:
        raise Refused("it contains no notebook (no .ipynb file)")
    stems = {n: PurePosixPath(n).stem.casefold() for n in notebooks}
    named = [n for n in notebooks if stems[n] == wanted.casefold()]
    named = named or [n for n in notebooks if wanted.casefold() in stems[n]] or notebooks
    outermost = [n for n in named if n.count("/") == min(m.count("/") for m in named)]
    if len(outermost) > 1 or (named is notebooks and len(notebooks) > 1):
        raise Refused(f"it contains {len(notebooks)} notebooks: hand in one, named {wanted}.ipynb")
    return outermost[0]


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_symlink():
        raise Refused("it is a link, not a file: hand in the notebook itself")
    if path.is_dir():
        yield from _folder(path)
    elif path.suffix.lower() == ".zip":
        yield from _zip(read_file(path, MOST_TOGETHER))
    else:
        yield "submission.ipynb", read_file(path)


def _folder(path: Path) -> Iterator[tuple[str, bytes]]:
    seen = 0
    for folder, folders, names in os.walk(path, onerror=_unreadable):
        folders[:] = sorted(f for f in folders if not left_out([f]))
        for name in sorted(names):
            seen += 1
            if seen > 10 * MOST_FILES:
                raise Refused(f"it has more than {MOST_FILES} files beside the notebook: hand in what it needs")
            file = Path(folder, name)
            if left_out([name]) or file.is_symlink() or not stat.S_ISREG(file.lstat().st_mode):
                continue  # what a link or a FIFO stands for was not handed in
            yield file.relative_to(path).as_posix(), read_file(file, MOST)


def _unreadable(error: OSError) -> None:
    raise error  # what lies there was handed in: it must not look like nothing


def _zip(content: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) > 10 * MOST_FILES:
                raise Refused(f"the zip has {len(members):,} entries")
            for member in members:
                if not member.is_dir() and not left_out(PurePosixPath(safe_name(member.filename)).parts):
                    yield safe_name(member.filename), _member(archive, member)
    except Refused:
        raise
    except Exception as error:  # also a decompressor's own
        raise Refused(f"the zip cannot be read: {str(error)[:80] or type(error).__name__}") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if stat.S_ISLNK(member.external_attr >> 16):
        raise Refused("the zip contains a link: put the file itself into it")
    if member.file_size > MOST or member.file_size > MOST_DENSITY * max(member.compress_size, 5_000):
        raise Refused("the zip contains a file that is too large once unpacked")
    with archive.open(member) as file:
        content = file.read(MOST + 1)  # the size that a zip states is a claim
    if len(content) > MOST:
        raise Refused("the zip contains a file that is too large once unpacked")
    return content


def safe_name(name: str) -> str:
    r"""A relative name that stays inside. Raises Refused for one that would not."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or ":" in path.parts[0]:
        raise Refused("the zip contains a path that leads outside its folder")
    if len(str(path)) > 300 or len(path.parts) > 20 or any(len(p.encode()) > 200 for p in path.parts):
        raise Refused("the zip contains a path that is too long")
    return str(path)


def shown(name: str) -> str:
    r"""A file's name as it may be shown and stored: printable, short."""
    plain = name.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else "?" for c in plain)[:200]
