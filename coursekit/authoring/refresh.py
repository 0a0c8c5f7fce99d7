r"""Writes the outputs of a finished run into the notebooks, in the form in which they are committed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coursekit.batch.runner import run_notebooks
from coursekit.errors import CourseError
from coursekit.files import replace_text


def refresh(paths: Iterable[str | Path], out: str | Path = "runs") -> list[Path]:
    r"""Run the notebooks with their default parameters, unless `out` holds a current result, and keep the outputs.

    Raises CourseError, and leaves every notebook as it was, if one of them does not run to its end.
    """
    import nbformat

    paths = [Path(p) for p in paths]
    results = run_notebooks(paths, out)
    failed = [r for r in results if r.status != "ok"]
    if failed:
        raise CourseError("; ".join(f"{r.notebook}: {r.status}, {r.message}" for r in failed))
    for path in paths:
        cleaned = clean(nbformat.read(Path(out) / path.name, as_version=4))
        replace_text(path, nbformat.writes(cleaned) + "\n")
    return paths


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
