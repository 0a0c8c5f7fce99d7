r"""Writes the outputs of a finished run into the notebooks, in the form in which they are committed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coursekit.authoring.generated import with_time
from coursekit.batch.runner import run_notebooks
from coursekit.errors import CourseError
from coursekit.files import replace_text


def refresh(paths: Iterable[str | Path], out: str | Path = "runs", *, jobs: int | None = 1) -> list[Path]:
    r"""Run the notebooks with their default parameters, unless `out` holds a current result, and keep the outputs.

    Only outputs, execution counts, the kernel's own description and the line on time in the first cell change; a link
    stays one, and what it leads to is written. Raises CourseError, and leaves every notebook as it was, if one cannot
    be written to or does not run to its end; and for notebooks that were edited while they ran, which stay as they are
    while the others are written.
    """
    import nbformat

    paths = [Path(p) for p in paths]
    for path in paths:
        if path.is_file() and not (path.stat().st_mode & 0o222 and os.access(path, os.W_OK)):
            raise CourseError(f"{path} is read-only: make it writable, or leave it out")
    before = {path: path.read_bytes() for path in paths if path.is_file()}
    results = run_notebooks(paths, out, jobs=jobs)
    failed = [r for r in results if r.status != "ok"]
    if failed:
        raise CourseError("; ".join(f"{r.notebook}: {r.status}, {r.message}" for r in failed))
    edited = []
    for path, result in zip(paths, results, strict=True):
        if path.read_bytes() != before[path]:
            edited.append(path.name)
            continue
        mine = nbformat.read(path, as_version=4)
        ran = nbformat.read(Path(out) / path.name, as_version=4)
        if mine.cells[0].cell_type == "markdown":
            mine.cells[0].source = with_time(mine, result)
        replace_text(path.resolve(), nbformat.writes(clean(_with_outputs(mine, ran))) + "\n")
    if edited:
        raise CourseError(f"{', '.join(edited)}: edited during the run, so left as it is; refresh again")
    return paths


def _with_outputs(mine: Any, ran: Any) -> Any:
    r"""`mine` with what `ran`, the same cells executed, has of outputs: a result may be older than an edited tag."""
    for cell, executed in zip(mine.cells, ran.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    mine.metadata |= ran.metadata
    return mine


def clean(notebook: Any) -> Any:
    r"""Drop what says nothing to a reader and would change on every run: times, papermill's notes, progress bars."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for noise in ("papermill", "execution"):
            cell.metadata.pop(noise, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            # Progress bars and notices go to stderr; what a notebook has to say goes to stdout.
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook
