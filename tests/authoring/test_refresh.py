r"""Refreshing puts clean outputs into the notebooks, or leaves them alone."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from coursekit.authoring.refresh import clean, refresh
from coursekit.errors import CourseError


def notebook(folder: Path, source: str) -> Path:
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["kept"]})
    book = nbformat.v4.new_notebook(cells=[cell])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "one.ipynb"
    nbformat.write(book, path)
    return path


@pytest.mark.slow
def test_outputs_are_kept_and_noise_is_not(tmp_path):
    path = notebook(tmp_path, "import sys\nprint('bar', file=sys.stderr)\nprint(6 * 7)")
    assert refresh([path], tmp_path / "runs") == [path]
    (cell,) = nbformat.read(path, as_version=4).cells
    assert [o.text for o in cell.outputs] == ["42\n"] and cell.execution_count == 1
    assert cell.metadata == {"tags": ["kept"]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.ipynb", "runs"]


@pytest.mark.slow
def test_a_notebook_that_fails_is_left_as_it_was(tmp_path):
    path = notebook(tmp_path, "1 / 0")
    before = path.read_bytes()
    with pytest.raises(CourseError, match="one.ipynb: failed, .*ZeroDivisionError"):
        refresh([path], tmp_path / "runs")
    assert path.read_bytes() == before


def test_clean_drops_times_and_progress_bars():
    out = [nbformat.v4.new_output("stream", name=n, text=n) for n in ("stdout", "stderr")]
    cell = nbformat.v4.new_code_cell("1", outputs=out, metadata={"papermill": {"duration": 1}, "tags": []})
    book = clean(nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {}, "kind": "x"}))
    assert [o.name for o in book.cells[0].outputs] == ["stdout"]
    assert book.cells[0].metadata == {} and book.metadata == {"kind": "x"}
