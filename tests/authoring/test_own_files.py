r"""No command writes over what somebody has made or changed: the commands that make notebooks, one after the other."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from coursekit import files
from coursekit.cli import app
from tests.grading import made_up


def course(path: Path, more: str = "") -> Path:
    content = made_up.course(["lora-merge"])
    content["cells"][0]["source"] += more
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def notebook(tmp_path) -> Path:
    (tmp_path / "tests" / "solutions").mkdir(parents=True)
    (tmp_path / "tests" / "solutions" / "06_lora.py").write_text("def lora_merge(*arguments):\n    return 2\n")
    (tmp_path / "roster.csv").write_text("id\nada\nbob\n")
    return course(tmp_path / "notebooks" / "06_lora.ipynb")


def run(*command) -> str:
    done = CliRunner().invoke(app, [str(c) for c in command])
    assert done.exit_code in (0, 1) and "Traceback" not in done.output, done.exception or done.output
    return "" if done.exit_code == 0 else done.output


def answered(path: Path) -> bytes:
    content = nbformat.read(path, as_version=4)
    content.cells[1].source = "def lora_merge(*arguments):\n    return 3"
    path.unlink()  # an editor may write through a link or not; here it does not
    nbformat.write(content, path)
    return path.read_bytes()


def commands(notebook: Path) -> dict[str, tuple[tuple, Path]]:
    r"""Name -> the command, and the file that it writes."""
    base = notebook.parent.parent
    variants = ("grade", "variants", base / "marks", "--roster", base / "roster.csv", "--notebook", notebook)
    return {
        "release": (("release", notebook, "-o", base / "st.ipynb"), base / "st.ipynb"),
        "into a folder": (("release", notebook, "-o", base / "students"), base / "students" / notebook.name),
        "solve": (("solve", notebook, "-o", base / "st.ipynb"), base / "st.ipynb"),
        "variants": (variants, base / "marks" / "copies" / "bob" / notebook.name),
    }


NAMES = ("release", "into a folder", "solve", "variants")


@pytest.mark.parametrize("name", NAMES)
def test_what_was_made_is_made_anew_and_what_was_answered_stays(notebook, name):
    command, target = commands(notebook)[name]
    assert run(*command) == ""
    course(notebook, "  # the course went on")
    assert run(*command) == "" and "went on" in target.read_text()
    work = answered(target)
    others = {p: p.read_bytes() for p in notebook.parent.parent.rglob("*.ipynb")}
    assert "was changed since coursekit wrote it" in run(*command)
    assert target.read_bytes() == work and all(p.read_bytes() == b for p, b in others.items())
    target.unlink()
    assert run(*command) == "" and target.is_file()


@pytest.mark.parametrize("name", NAMES)
def test_what_somebody_else_made_stays(notebook, name):
    command, target = commands(notebook)[name]
    course(target)
    before = target.read_bytes()
    assert "is not coursekit's own" in run(*command) and target.read_bytes() == before


@pytest.mark.parametrize("link", [os.link, lambda to, at: os.symlink(to, at)], ids=["hard", "symbolic"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_goes_through_a_link_onto_its_source(notebook, name, link):
    command, target = commands(notebook)[name]
    target.parent.mkdir(parents=True, exist_ok=True)
    link(notebook, target)
    before = notebook.read_bytes()
    assert "is 06_lora.ipynb itself" in run(*command)
    assert notebook.read_bytes() == before and target.samefile(notebook)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_leaves_the_file_that_was_there(notebook, name, monkeypatch):
    command, target = commands(notebook)[name]
    assert run(*command) == ""
    course(notebook, "  # the course went on")
    everything = {p: p.read_bytes() for p in target.parent.rglob("*") if p.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    assert "No space left on device" in run(*command)
    assert {p: p.read_bytes() for p in target.parent.rglob("*") if p.is_file()} == everything


def test_two_notebooks_of_one_name_do_not_become_one_file(notebook, tmp_path):
    twin = course(tmp_path / "other" / "06_lora.ipynb")
    assert "have one name" in run("release", notebook, twin, "-o", tmp_path / "students")
    assert not (tmp_path / "students").exists()


def test_a_solution_is_a_notebook_and_nothing_else(notebook):
    solutions = notebook.parent.parent / "tests" / "solutions" / "06_lora.py"
    before = solutions.read_bytes()
    assert "must end in .ipynb" in run("solve", notebook, "-o", solutions)
    assert solutions.read_bytes() == before


@pytest.mark.parametrize("content", [
    "", "{", "[]", '{"cells": []}', "[" * 100_000, "\udc80",
    json.dumps({"cells": [{"cell_type": "code", "metadata": {"nbgrader": {"solution": True}}, "source": "",
                           "outputs": [], "execution_count": None}], "metadata": {}, "nbformat": 4,
                "nbformat_minor": 4}),
    json.dumps({"cells": [{"cell_type": "code", "metadata": {"nbgrader": 5}, "source": "", "outputs": [],
                           "execution_count": None}], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}),
])  # fmt: skip
@pytest.mark.parametrize("command", ["release", "solve"])
def test_a_broken_notebook_is_one_line(notebook, content, command):
    notebook.write_bytes(content.encode("utf-8", "surrogateescape"))
    target = notebook.parent.parent / "out.ipynb"
    said = run(command, notebook, "-o", target)
    assert said.startswith("coursekit: ") and said.count("\n") == 1 and not target.exists()


@pytest.mark.parametrize("command", ["release", "solve"])
def test_a_folder_where_a_notebook_belongs_is_one_line(notebook, tmp_path, command):
    assert "there is no notebook" in run(command, tmp_path / "notebooks", "-o", tmp_path / "out.ipynb")
    (tmp_path / "at.ipynb").mkdir()
    assert "is not coursekit's own" in run(command, notebook, "-o", tmp_path / "at.ipynb")
    assert "cannot be a folder" in run(command, notebook, "-o", notebook / "x.ipynb")
