r"""The student's copy: nothing of an answer or an output is in it, and nbgrader can count its points."""

import json
import re
from pathlib import Path

import made_up
import nbformat
import pytest
from typer.testing import CliRunner

from coursekit import checks
from coursekit.authoring.release import STUB, release, without_answer
from coursekit.authoring.solve import solve
from coursekit.cli import app
from coursekit.errors import CourseError
from coursekit.grading import pages, pseudonyms
from coursekit.grading.folder import Batch
from coursekit.notebook.parameters import defaults

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IA3, LORA = (next(p for p in NOTEBOOKS if p.stem == stem) for stem in ("03_ia3", "06_lora"))
SOLUTIONS = ROOT / "tests" / "solutions"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
def test_a_students_copy_of_the_solved_notebook_is_that_of_the_blank_one(path, tmp_path):
    solve(path, tmp_path / "solved.ipynb")
    solve(tmp_path / "solved.ipynb", tmp_path / "again.ipynb", SOLUTIONS / f"{path.stem}.py")
    release(path, tmp_path / "copy.ipynb")
    release(tmp_path / "again.ipynb", tmp_path / "of_solved.ipynb")
    assert (tmp_path / "of_solved.ipynb").read_bytes() == (tmp_path / "copy.ipynb").read_bytes()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
def test_a_students_copy_holds_no_answer_and_no_output(path, tmp_path):
    ids = release(path, tmp_path / "copy" / path.name)
    before, after = nbformat.read(path, 4).cells, nbformat.read(tmp_path / "copy" / path.name, 4).cells
    assert [c.id for c in before] == [c.id for c in after]
    for old, new in zip(before, after, strict=True):
        meta = new.metadata.get("nbgrader")
        if new.cell_type == "code":
            assert new.outputs == [] and new.execution_count is None
        if not meta:
            assert new.source == old.source and new.metadata == old.metadata
            continue
        # nbgrader's schema 3: points only where something is graded, and no keys of anybody's own.
        assert re.fullmatch(r"[a-zA-Z0-9_\-]+", meta.grade_id) and meta.schema_version == 3
        assert meta.grade == meta.locked == (not meta.solution) == ("points" in meta)
        assert set(meta) - {"points"} == {"schema_version", "grade", "locked", "solution", "task", "grade_id"}
        assert new.metadata.deletable is False and new.metadata.get("editable", True) == meta.solution
        if meta.solution:
            assert new.source == old.source
            if "how the check looks at" in new.source:  # a class, say, to fill in, and a function that looks at it
                assert new.source.count("...  # your code") == 1 + ("class " in new.source)
                continue
            name = meta.grade_id.replace("-", "_")
            space: dict = {}
            exec(new.source, space)
            stub = space.pop(name)
            given = {n for n in space if n != "__builtins__" and f" import {n}\n" not in new.source}
            assert given == set(), "nothing but what the stub imports"
            assert stub(*[None] * stub.__code__.co_argcount) is ...
        else:
            assert new.source == old.source
    assert (
        len(ids) >= (3 if path.stem[2] == "_" else 1)  # a lesson, an appendix
        and [c.metadata.nbgrader.grade_id for c in after if "nbgrader" in c.metadata][::2] == ids
    )


@pytest.mark.parametrize("source, copy", [
    ('def f(x):\n    r"""Doc.\n\n    More."""\n    return 2 * x',
     f'def f(x):\n    r"""Doc.\n\n    More."""\n    {STUB}'),
    ("import torch\n\nTWO = 2\n\n\ndef f(x, *, y: int = 1) -> int:\n    # twice\n    return TWO * x\n\n\nf(1)",
     f"def f(x, *, y: int=1) -> int:\n    {STUB}"),
    ("def f(x): return 2 * x", f"def f(x):\n    {STUB}"),
    ("given = 1\n\n\ndef f(x):\n    ...\n\n\nf(given)", "given = 1\n\n\ndef f(x):\n    ...\n\n\nf(given)"),
    ("import math\n\n\ndef f(x):\n    y = x\n    ### BEGIN SOLUTION\n    return 2 * y\n    ### END SOLUTION\n\n\nf(2)",
     f"import math\n\n\ndef f(x):\n    y = x\n    {STUB}\n\n\nf(2)"),
    ("import math\n\nTWO = 2\n\n\nclass A(B):\n    def __init__(self, x):\n        self.x = x\n\n    def g(self):\n"
     '        r"""Doc."""\n        return TWO * self.x\n\n\ndef f(x):  # leave it as it is\n    return A(x).g()',
     "import math\n\n\nclass A(B):\n    def __init__(self, x):\n        ...  # your code instead of the dots\n\n"
     f'    def g(self):\n        r"""Doc."""\n        {STUB}\n\n\ndef f(x):  # leave it as it is\n    return A(x).g()'),
])  # fmt: skip
def test_what_is_left_of_an_answer(source, copy):
    assert without_answer(source, "f") == copy


def test_what_cannot_be_released_is_said(tmp_path):
    notebook = nbformat.v4.new_notebook()
    path, out = tmp_path / "n.ipynb", tmp_path / "copy.ipynb"

    def cell(source, **meta):
        flags = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
        return nbformat.v4.new_code_cell(source, metadata={"nbgrader": {**flags, **meta}})

    def said(*cells):
        notebook.cells = list(cells)
        nbformat.write(notebook, path)
        with pytest.raises(CourseError) as error:
            release(path, out)
        assert not out.exists() and "\n" not in str(error.value)
        return str(error.value)

    answer = cell("def f(x):\n    ...", solution=True, grade_id="f")
    assert "n.ipynb has no exercise" in said(nbformat.v4.new_code_cell("1"))
    assert "f has no check of its own right after it" in said(answer)
    other = cell("check('g', g)", grade=True, locked=True, points=1, grade_id="g-check")
    assert "f has no check of its own right after it" in said(answer, other)
    assert "is no Python" in said(cell("def f(x:", solution=True, grade_id="f"))
    assert "must define the function f once" in said(cell("x = 1", solution=True, grade_id="f"))
    with pytest.raises(CourseError, match="there is no notebook"):
        release(tmp_path / "none.ipynb", out)


def test_the_command(tmp_path):
    done = CliRunner().invoke(app, ["release", str(LORA), str(IA3), "-o", str(tmp_path / "students")])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "students").glob("*.ipynb")) == [IA3.name, LORA.name]
    assert "lora-linear, lora-merge" in done.output
    one = CliRunner().invoke(app, ["release", str(LORA), "-o", str(tmp_path / "one.ipynb")])
    assert one.exit_code == 0 and (tmp_path / "one.ipynb").is_file()
    two = CliRunner().invoke(app, ["release", *map(str, NOTEBOOKS[:2]), "-o", str(tmp_path / "two.ipynb")])
    assert two.exit_code == 1 and "give a folder" in two.output


def test_every_student_has_a_copy_with_numbers_of_his_own(tmp_path):
    course, out = tmp_path / "06_lora.ipynb", tmp_path / "marks"
    course.write_text(json.dumps(made_up.course(["lora-estimate"])))
    (tmp_path / "roster.csv").write_text("id,name\nada,Ada\n../bob,Bob\n")
    command = ["grade", "variants", str(out), "--roster", str(tmp_path / "roster.csv")]
    done = CliRunner().invoke(app, [*command, "--notebook", str(course)])
    assert done.exit_code == 0 and "2 copies" in done.output, done.output
    secret = Batch(out).secret()
    numbers = {id: pseudonyms.variant(secret, id) for id in ("ada", "../bob")}
    assert all(f"{id},{number}" in done.output for id, number in numbers.items())
    copies = {p.parent.name: defaults(p) | injected(p) for p in (out / "copies").glob("*/06_lora.ipynb")}
    assert copies == {pages.file_name(id): {"variant": number} for id, number in numbers.items()}
    assert checks.numbers("lora-estimate", numbers["ada"]) != checks.numbers("lora-estimate", numbers["../bob"])
    course.write_text(json.dumps(made_up.notebook(made_up.course(["lora-estimate"])["cells"][1:])))
    assert "no parameter variant" in CliRunner().invoke(app, [*command, "--notebook", str(course)]).output


def injected(notebook: Path) -> dict:
    r"""What papermill's cell below the parameters assigns."""
    cells = [c for c in nbformat.read(notebook, 4).cells if "injected-parameters" in c.metadata.get("tags", ())]
    found: dict = {}
    exec("\n".join(c.source for c in cells), {}, found)
    return found


def test_every_marked_answer_of_a_cell_is_taken_out():
    marked = "    ### BEGIN SOLUTION\n    return {} * x\n    ### END SOLUTION"
    source = f"def f(x):\n{marked.format(2)}\n\n\ndef g(x):\n{marked.format(3)}\n"
    left = without_answer(source, "f")
    assert left.count(STUB) == 2 and "2 * x" not in left and "3 * x" not in left and "def g(x)" in left
