r"""The gate: whether a file is a notebook that can be run. Nothing of it is executed, no kernel is started.

Only what the chain uses is looked at, and strictly; what leaves the gate is a new notebook made of the sources alone.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Bytes of a notebook, and of all files that come with it.
MOST = 20 * 2**20
MOST_FILES, MOST_CELLS = 200, 5_000
#: Characters of all code together: reading it as Python takes a thousand times as much memory.
MOST_CODE = 500_000


class Refused(Exception):
    r"""The submission is no notebook that can be run; the text is one line for the student."""


@dataclass(frozen=True)
class Cell:
    r"""A code cell: its position in the notebook, counted from 1 over all cells, its source and its tags."""

    number: int
    source: str
    tags: tuple[str, ...]


def read_file(path: Path, most: int = MOST) -> bytes:
    r"""The bytes of a regular file of at most `most`; no link is followed, no FIFO waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise Refused("it is a link, not a file: hand in the notebook itself") from error
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


def notebook(content: bytes) -> list[Cell]:
    r"""The code cells of a notebook, from its bytes. Raises Refused with what is wrong with it."""
    if len(content) > MOST:
        raise Refused(
            f"it has {len(content) / 2**20:.0f} MB and the limit is {MOST / 2**20:.0f} MB: clear its outputs"
        )
    if not content.strip():
        raise Refused("the file is empty")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"it is not UTF-8 text (byte {error.start}): save it with Jupyter") from error
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
    found = [c for n, cell in enumerate(cells, start=1) if (c := _cell(n, cell)) is not None]
    if sum(len(c.source) for c in found) > MOST_CODE:
        raise Refused(f"it has more than {MOST_CODE:,} characters of code")
    return found


def _cell(number: int, cell: Any) -> Cell | None:
    if not isinstance(cell, dict) or cell.get("cell_type") not in ("code", "markdown", "raw"):
        raise Refused(f"cell {number} is not a valid cell")
    source = cell.get("source")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise Refused(f"the source of cell {number} is not text")
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise Refused(
            f"the source of cell {number} contains an incomplete character (a lone surrogate)"
        ) from error
    if "\0" in source:
        raise Refused(f"the source of cell {number} contains a null character")
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    tags = tuple(t for t in tags if isinstance(t, str)) if isinstance(tags, list) else ()
    return Cell(number, source, tags) if cell["cell_type"] == "code" else None
