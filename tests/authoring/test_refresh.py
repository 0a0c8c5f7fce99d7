r"""Refreshing puts clean outputs into the notebooks, or leaves them alone."""

from pathlib import Path

import nbformat
import papermill_here
import pytest

from coursekit.authoring.refresh import clean, refresh
from coursekit.batch import runner
from coursekit.batch.report import Result
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


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(runner, "watch", papermill_here.watch)


def output(path: Path) -> str:
    return nbformat.read(path, as_version=4).cells[0].outputs[0].text


def test_a_link_stays_a_link(tmp_path, quick):
    (tmp_path / "kept").mkdir()
    path = notebook(tmp_path / "kept", "print(6 * 7)")
    link = tmp_path / "one.ipynb"
    link.symlink_to(path)
    refresh([link], tmp_path / "runs")
    assert link.is_symlink() and output(path) == "42\n"


def test_an_edit_made_during_the_run_stays(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    path, other = notebook(tmp_path, "print(6 * 7)"), notebook(tmp_path / "other", "print(1)")
    other = other.rename(tmp_path / "two.ipynb")

    def meanwhile(command, **options):
        notebook(tmp_path, "print('better')")
        return papermill_here.watch(command, **options)

    monkeypatch.setattr(runner, "watch", meanwhile)
    with pytest.raises(CourseError, match="^one.ipynb: edited during the run, so left as it is"):
        refresh([path, other], tmp_path / "runs")
    assert "better" in path.read_text() and output(other) == "1\n"


def test_an_edited_tag_or_exercise_outlives_a_result_that_is_older(tmp_path, quick):
    path = notebook(tmp_path, "print(6 * 7)")
    refresh([path], tmp_path / "runs")
    book = nbformat.read(path, as_version=4)
    book.cells[0].metadata["nbgrader"] = {"points": 3}
    nbformat.write(book, path)
    refresh([path], tmp_path / "runs")
    (cell,) = nbformat.read(path, as_version=4).cells
    assert cell.metadata == {"tags": ["kept"], "nbgrader": {"points": 3}} and output(path) == "42\n"


def test_a_read_only_notebook_is_not_run(tmp_path, monkeypatch):
    path = notebook(tmp_path, "print(6 * 7)")
    before = path.read_bytes()
    path.chmod(0o444)
    monkeypatch.setattr(runner, "watch", lambda *a, **k: pytest.fail("a kernel was started"))
    with pytest.raises(CourseError, match="one.ipynb is read-only: make it writable"):
        refresh([path], tmp_path / "runs")
    assert path.read_bytes() == before and not (tmp_path / "runs").exists()


def test_clean_drops_times_and_progress_bars():
    out = [nbformat.v4.new_output("stream", name=n, text=n) for n in ("stdout", "stderr")]
    cell = nbformat.v4.new_code_cell("1", outputs=out, metadata={"papermill": {"duration": 1}, "tags": []})
    book = clean(nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {}, "kind": "x"}))
    assert [o.name for o in book.cells[0].outputs] == ["stdout"]
    assert book.cells[0].metadata == {} and book.metadata == {"kind": "x"}


@pytest.mark.parametrize("status", ["incomplete", "timeout", "invalid", "failed"])
def test_whatever_is_not_ok_stops_a_refresh(tmp_path, status, monkeypatch):
    path = notebook(tmp_path, "print(6 * 7)")
    before = path.read_bytes()
    result = Result("one.ipynb", status, "half of it")
    monkeypatch.setattr("coursekit.authoring.refresh.run_notebooks", lambda *_, **__: [result])
    with pytest.raises(CourseError, match=f"one.ipynb: {status}, half of it"):
        refresh([path], tmp_path / "runs")
    assert path.read_bytes() == before
