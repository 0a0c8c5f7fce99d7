r"""Marks on arrival, of what has arrived; and one checkout graded in a workflow of its own."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import made_up
import pytest
from typer.testing import CliRunner

from coursekit.cli import app
from coursekit.grading import collect
from coursekit.grading.folder import Batch
from coursekit.grading.plan import plan
from coursekit.grading.watch import watch
from tests.checks.answers import SOLUTIONS

RIGHT = inspect.getsource(SOLUTIONS["ia3_attention"])
WRONG = "def ia3_attention(q, k, v, l_k, l_v):\n    return q"


def written(answer: str) -> str:
    head = made_up.cell("import torch\nimport torch.nn.functional as F", "head")
    return json.dumps(made_up.notebook([head, made_up.exercise("ia3-attention", answer)]))


@pytest.fixture
def course(tmp_path: Path) -> Path:
    (tmp_path / "course.ipynb").write_text(json.dumps(made_up.course(["ia3-attention"])))
    (tmp_path / "subs").mkdir()
    return tmp_path


class Folder:
    r"""A watched folder in which something happens at each look: `steps` are called in order, one a look."""

    def __init__(self, place: Path, steps: list, best: bool) -> None:
        self.place, self.best, self.said, self.marks = place, best, [], []
        self.batch = Batch(place / "marks")
        self.batch.make()
        self.steps = iter(steps)
        watch(
            place / "subs",
            self.batch,
            self.plan,
            self.said.append,
            seconds=0,
            rounds=len(steps),
            sleep=self.step,
        )

    def step(self, seconds: float) -> None:
        if (self.batch.out / "gradebook.csv").is_file():
            self.marks.append({e.id: e.total for e in collect.read(self.batch.out)})
        next(self.steps)(self.place / "subs")

    def plan(self, without: set) -> object:
        notebook = self.place / "course.ipynb"
        return plan(
            self.place / "subs", self.batch, "bwrap", notebook=notebook, best=self.best, without=without
        )


def put(name: str, answer: str, cut: int | None = None):
    return lambda folder: (folder / name).write_text(written(answer)[:cut])


def wait(folder: Path) -> None:
    pass


@pytest.mark.parametrize("best, last", [(False, 0), (True, 2)])
def test_marks_on_arrival_and_what_is_handed_in_again(box: str, course: Path, best: bool, last: float):
    steps = [wait, put("ann.ipynb", RIGHT, 300), put("ann.ipynb", RIGHT), wait, wait, put("ann.ipynb", WRONG), wait,
             put("bob.ipynb", RIGHT), wait, wait]  # fmt: skip
    found = Folder(course, steps, best)
    full = made_up.every_kind()["ia3-attention"].points
    lines = [line.split(" ", 1)[1] for line in found.said if not line.startswith("coursekit")]
    assert lines[0] == f"ann: {full} of {full}, everything is correct"  # nothing of the part of a file
    assert len(lines) == 3 and lines[2].startswith(f"bob: {full} of {full}")
    assert lines[1].startswith(f"ann: {full} of {full} (the best of 2)" if best else f"ann: 0 of {full}")
    assert collect.read(found.batch.out)[0].total == (full if best else 0)
    begun = (found.batch.out / "events.jsonl").read_text().count('"begin"')
    assert begun == 3  # each once
    assert found.said == [line for line in found.said if not line.startswith("coursekit")]


def test_a_folder_with_nothing_or_with_a_mistake_is_told_once_and_looked_at_again(box: str, course: Path):
    (course / "subs" / "notes.txt").touch()
    found = Folder(course, [wait, wait, wait, put("ann.ipynb", RIGHT), wait, wait], False)
    assert sum("there are no submissions" in line for line in found.said) == 1
    assert found.said[-1].endswith("everything is correct")


def test_the_result_of_one_checkout_is_what_classroom_50_reads(box: str, course: Path, monkeypatch):
    repository = course / "checkout"
    (repository / ".git").mkdir(parents=True)
    (repository / "work.ipynb").write_text(written(RIGHT))
    for number in range(300):
        (repository / ".git" / str(number)).touch()
    given = {"CLASSROOM": "cs", "ASSIGNMENT": "ia3", "SUBMISSION_TAG": "submit/1", "COMMIT_URL": "c",
             "RELEASE_URL": "r", "OWNER": "ann"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(repository)
    command = ["grade", "autograder", ".", "--notebook", str(course / "course.ipynb"), "--box", "bwrap"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads((repository / "result.json").read_text())
    points = made_up.every_kind()["ia3-attention"].points
    assert found.pop("datetime").endswith("Z") and found.pop("message") == "everything is correct"
    test = {"test-name": "ia3-attention", "passed": True, "score": 100 * points, "max-score": 100 * points}
    assert found == {
        "schema": "classroom50/result/v1", "classroom": "cs", "assignment": "ia3", "owner": "ann",
        "submission": "submit/1", "commit": "c", "release": "r", "review": "c",
        "score": 100 * points, "max-score": 100 * points,
        "tests": [{**test, "status": "ok", "message": "right"}],
    }  # fmt: skip
    assert all(type(found[name]) is int for name in ("score", "max-score"))
    shutil.rmtree(repository / ".git")
    (repository / "work.ipynb").unlink()
    done = CliRunner().invoke(app, command)  # nothing handed in is a mark of 0, and no failure of the grader
    assert done.exit_code == 0 and json.loads((repository / "result.json").read_text())["score"] == 0, (
        done.output
    )
