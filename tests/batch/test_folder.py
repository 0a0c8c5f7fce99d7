r"""Where results go: no file is overwritten that a run did not write."""

import os
from pathlib import Path

import nbformat
import papermill_here
import pytest

from coursekit.authoring.refresh import refresh
from coursekit.batch import runner
from coursekit.batch.runner import run_notebooks
from coursekit.errors import CourseError
from coursekit.files import Folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(runner, "watch", papermill_here.watch)


def notebook(path: Path, source: str = "print(6 * 7)") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    return path


def everything(folder: Path) -> dict[Path, bytes | None]:
    r"""Every file, folder and link below `folder`, with the bytes of the files."""
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def refused(folder: Path, says: str, call, *arguments, **options) -> None:
    before = everything(folder)
    with pytest.raises(CourseError, match=says) as caught:
        call(*arguments, **options)
    assert everything(folder) == before and "\n" not in str(caught.value)


@pytest.mark.parametrize("out", ["work", "work/../work", "link", "work/."])
def test_a_notebook_is_never_overwritten_by_its_own_result(tmp_path, out):
    path = notebook(tmp_path / "work" / "a.ipynb")
    (tmp_path / "link").symlink_to(tmp_path / "work")
    refused(tmp_path, "the folder of a.ipynb itself", run_notebooks, [path], tmp_path / out)
    refused(tmp_path, "the folder of a.ipynb itself", run_notebooks, [path], tmp_path / out, force=True)
    refused(tmp_path, "the folder of a.ipynb itself", refresh, [path], tmp_path / out)


def test_nor_where_the_command_stands_in_its_folder(tmp_path, monkeypatch):
    notebook(tmp_path / "a.ipynb")
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, "the folder of a.ipynb itself", run_notebooks, ["a.ipynb"], ".")


@pytest.mark.parametrize("link", [os.link, lambda to, at: os.symlink(to, at)], ids=["hard", "symbolic"])
def test_nor_through_a_link_among_the_results(tmp_path, link):
    path = notebook(tmp_path / "work" / "a.ipynb")
    (tmp_path / "out").mkdir()
    link(path, tmp_path / "out" / "a.ipynb")
    refused(tmp_path, "is a.ipynb itself", run_notebooks, [path], tmp_path / "out")
    (tmp_path / "out" / "a.ipynb").rename(tmp_path / "out" / "index.html")
    refused(tmp_path, "index.html is a.ipynb itself", run_notebooks, [path], tmp_path / "out")


@pytest.mark.parametrize("name", ["a.ipynb", "a.html", "index.html", "summary.json"])
def test_what_no_run_wrote_is_left_alone(tmp_path, name):
    path = notebook(tmp_path / "work" / "a.ipynb")
    mine = tmp_path / "out" / name
    notebook(mine, "my answer")
    refused(tmp_path, f"{name} is not coursekit's own, and would be overwritten", run_notebooks, [path], mine.parent)
    mine.unlink()
    mine.mkdir()
    refused(tmp_path, "is not coursekit's own", run_notebooks, [path], mine.parent)
    mine.rmdir()
    mine.symlink_to(notebook(tmp_path / "elsewhere.ipynb"))
    refused(tmp_path, "is not coursekit's own", run_notebooks, [path], mine.parent)
    mine.unlink()
    assert run_notebooks([path], mine.parent)[0].ok


def test_a_result_that_somebody_has_worked_in_is_left_alone(tmp_path):
    path, out = notebook(tmp_path / "work" / "a.ipynb"), tmp_path / "out"
    run_notebooks([path], out)
    assert run_notebooks([path], out, force=True)[0].ok, "what a run wrote, a run replaces"
    notebook(out / "a.ipynb", "my answer")
    refused(tmp_path, "a.ipynb was changed since coursekit wrote it", run_notebooks, [path], out)
    notebook(out / "a.ipynb")  # emptied: the same cell without its output
    assert run_notebooks([path], out)[0].ok and Folder(out).holds("a.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), out / "a.ipynb")  # not even the cell
    assert run_notebooks([path], out)[0].ok and Folder(out).holds("a.ipynb")
    (out / "index.html").write_text("<h1>My own page</h1>")
    refused(tmp_path, "index.html was changed since coursekit wrote it", run_notebooks, [path], out)


def test_work_saved_among_the_results_during_a_run_stays(tmp_path, monkeypatch):
    path, mine = notebook(tmp_path / "work" / "a.ipynb"), tmp_path / "out" / "a.ipynb"
    other = notebook(tmp_path / "work" / "b.ipynb")

    def meanwhile(*arguments, **options):
        if not mine.exists():
            notebook(mine, "my answer")
        return papermill_here.watch(*arguments, **options)

    monkeypatch.setattr(runner, "watch", meanwhile)
    first, second = run_notebooks([path, other], mine.parent)
    assert first.status == "failed" and "is not coursekit's own" in first.message and second.ok
    assert "my answer" in mine.read_text()


def test_a_folder_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
    path = notebook(tmp_path / "work" / "a.ipynb")
    (tmp_path / "file").write_text("")
    for out in ("file", "file/below"):
        refused(tmp_path, "file.* cannot be a folder to write to", run_notebooks, [path], tmp_path / out)

    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("coursekit.files.replace_text", read_only)
    with pytest.raises(CourseError, match="cannot write to .*out: Read-only file system"):
        run_notebooks([path], tmp_path / "out")


def test_a_disk_that_fills_up_fails_one_notebook_and_no_other(tmp_path, monkeypatch):
    paths = [notebook(tmp_path / "work" / f"{name}.ipynb") for name in "abc"]
    put = Folder.put

    def full(folder, name, made):
        if name == "b.ipynb":
            raise OSError(28, "No space left on device")
        put(folder, name, made)

    monkeypatch.setattr(Folder, "put", full)
    found = [(r.status, r.message) for r in run_notebooks(paths, tmp_path / "out")]
    full_line = ("failed", "cannot write b.ipynb: No space left on device")
    assert found == [("ok", ""), full_line, ("ok", "")]

    def never(folder, name, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "put_text", never)
    with pytest.raises(CourseError, match="cannot write the summary to .*out: No space left on device"):
        run_notebooks(paths, tmp_path / "out", force=True)
