r"""What a notebook's result depends on, gathered and checked before any kernel starts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import coursekit
from coursekit.errors import CourseError, unknown
from coursekit.notebook import parameters as params
from coursekit.paths import DATA

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "bitsandbytes")
#: Files beside a notebook up to this size are compared by their bytes, larger ones by size and time.
_READ_WHOLE = 20_000_000


@dataclass(frozen=True)
class Job:
    r"""One notebook, what it is to be given, and the fingerprint of everything its result depends on.

    beside: name -> fingerprint of the files in the notebook's folder, of which it may read any.
    """

    path: Path
    given: dict[str, Any]
    key: str
    invalid: str = ""
    beside: dict[str, str] = field(default_factory=dict)


def plan(paths: list[Path], profile: str | Path | None, explicit: dict[str, Any]) -> list[Job]:
    r"""Checks everything that can be checked without a kernel."""
    if not paths:
        raise CourseError("there are no notebooks to run")
    seen: dict[str, Path] = {}
    for path in paths:
        if not path.name.isprintable():  # bytes that are no UTF-8 among them: no report could name it
            raise CourseError(f"{path.name!a} is no name that a report can hold: rename it")
        if not path.is_file():
            raise CourseError(f"there is no notebook {path}")
        if path.suffix != ".ipynb":
            raise CourseError(f"{path} is no notebook: its name must end in .ipynb")
        if seen.setdefault(path.name, path) is not path:
            raise CourseError(f"{seen[path.name]} and {path} would both become {path.name}: run them one by one")
    jobs, everything = [], set()
    world = fingerprint_of_the_world()
    for path in paths:
        file, shared = params.read_profile(profile, path.parent)
        invalid, cells, kinds = "", [], {}
        try:
            # What of a notebook decides its result: sources and tags, not outputs.
            cells = [[c.cell_type, c.source, sorted(c.metadata.get("tags", []))] for c in read(path).cells]
            kinds = params.defaults(path)
        except CourseError as error:
            invalid = str(error)
        everything |= kinds.keys()
        own = {k: v for k, v in explicit.items() if k in kinds}
        for source, values in ((f"{file.name} for {path.name}" if file else "", shared), (path.name, own)):
            params.check(kinds, values, source)
        # What the notebook does not know would only make papermill warn: a profile serves all notebooks.
        given = {k: v for k, v in (shared | own).items() if k in kinds}
        jobs.append(Job(path, given, _digest([world, cells, given]), invalid, _beside(path, cells)))
    for name in explicit:
        if name not in everything and not any(job.invalid for job in jobs):
            raise unknown("parameter", name, everything)
    return jobs


def same_beside(before: Mapping[str, str], job: Job) -> bool:
    r"""Whether the files beside the notebook are as `before`. A new one may be its own output, unless it is source."""
    new = job.beside.keys() - before.keys()
    return not any(name.endswith(".py") for name in new) and before.items() <= job.beside.items()


def read(path: Path) -> Any:
    r"""The notebook in `path`. Raises CourseError where there is none."""
    import nbformat

    if not path.is_file():
        raise CourseError(f"there is no notebook {path}")
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except (
        OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError, nbformat.ValidationError,
    ) as error:  # fmt: skip
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CourseError(f"{path.name} is not a valid notebook: {first}") from error
    return notebook


def code_cells(path: Path) -> list[Any]:
    r"""The code cells that have something to execute."""
    return [c for c in read(path).cells if c.cell_type == "code" and c.source.strip()]


def _beside(notebook: Path, cells: list[Any]) -> dict[str, str]:
    r"""Files that a notebook may read, hidden ones and other notebooks aside: those in its folder, source at any depth
    below, and whatever its code names in a string, wherever that lies.
    """
    folder = notebook.parent
    found = {p for p in folder.glob("[!.]*") if p.suffix != ".ipynb"}
    found |= {p for p in folder.rglob("[!.]*.py") if not any(x.startswith(".") for x in p.relative_to(folder).parts)}
    source = "\n".join(text for kind, text, _ in cells if kind == "code")
    named = {name for name in re.findall(r"""["']([^"'\n]{1,200})["']""", source) if name.strip(".")}
    prints = {}
    for path in sorted(found | {folder / name for name in named}):
        try:
            if path.is_file():
                facts = path.stat()
                large = facts.st_size > _READ_WHOLE
                content = [facts.st_size, facts.st_mtime_ns] if large else _bytes(path)
                prints[os.path.relpath(path, folder)] = _digest(content)
        except (OSError, ValueError):  # not to be read by us, nor by the notebook
            continue
    return prints


def fingerprint_of_the_world() -> str:
    r"""Digest of what all notebooks depend on: package source, data files, libraries, device and number format."""
    package = Path(coursekit.__file__).parent
    files = [*package.rglob("*.py"), *(p for p in DATA.rglob("*") if p.is_file())]
    content = {p.as_posix(): _bytes(p) for p in sorted(set(files))}
    versions = {p: metadata.version(p) for p in _LIBRARIES if _installed(p)}
    return _digest([content, versions, sys.version, *map(os.environ.get, ("DEVICE", "DTYPE"))])


def _installed(project: str) -> bool:
    try:
        metadata.version(project)
    except metadata.PackageNotFoundError:
        return False
    return True


def _bytes(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()
