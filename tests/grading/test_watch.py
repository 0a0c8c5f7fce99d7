r"""Marks on arrival, of what has arrived; and one checkout graded in a workflow of its own."""

import inspect
import json
import shutil
from pathlib import Path

import made_up
import pytest
from typer.testing import CliRunner

from coursekit.cli import app
from coursekit.grading import batch as grading
from coursekit.grading import collect
from coursekit.grading import plan as planning
from coursekit.grading import watch as watching
from coursekit.grading.folder import Batch
from coursekit.grading.limits import Limits
from coursekit.grading.one import Assignment
from coursekit.grading.plan import plan
from coursekit.grading.watch import watch
from tests.checks.answers import SOLUTIONS
from tests.grading.batches import OF, part, right

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

    def __init__(self, place: Path, steps: list, best: bool, **given: Path) -> None:
        self.place, self.said, self.marks = place, [], []
        self.given = {"notebook": place / "course.ipynb", "best": best} | given
        self.batch = Batch(place / "marks")
        self.batch.make()
        self.steps = iter(steps)
        watch(place / "subs", self.batch, self.plan, self.said.append, seconds=0, rounds=len(steps), sleep=self.step)

    def step(self, seconds: float) -> None:
        if (self.batch.out / "gradebook.csv").is_file():
            self.marks.append({e.id: e.total for e in collect.read(self.batch.out)})
        next(self.steps)(self.place / "subs")

    def plan(self, without: set) -> object:
        return plan(self.place / "subs", self.batch, "bwrap", without=without, **self.given)


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


#: How often the grader itself fails in the next tests.
FAILS = [0]


@pytest.fixture
def no_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    r"""Full marks for what can be read and is not WRONG, a failure of the grader for what cannot: who grades is not
    what is tried.
    """

    def grade_lines(batch: Batch, **_: object) -> list:
        for line in batch.lines():
            if line["key"] is None or batch.result(line["key"]) is not None:
                continue
            batch.event("begin", submission=line["submission"])
            there = Path(line["path"]).is_file()
            FAILS[0] -= (fails := FAILS[0] > 0)
            if fails or not there:
                batch.event("infrastructure", why="no space left" if fails else "No such file")
            assignment = Assignment(line["notebook"], (), Limits(), "none", 8)
            wrong = there and json.dumps(WRONG)[1:-1] in Path(line["path"]).read_text()
            parts = [part(id, 0) for id in OF] if wrong else right()
            status = "wrong" if wrong else "ok"
            found = {"status": status, "message": "right", "where": None, "exercises": parts, "files": {}, "times": {}}
            batch.write_result(assignment.result(line, None if fails or not there else found))
        return [found for line in batch.lines() if (found := batch.result(line["key"])) is not None]

    monkeypatch.setattr(watching, "grade_lines", grade_lines)
    monkeypatch.setattr(grading, "grade_lines", grade_lines)


@pytest.fixture
def vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    r"""bob.ipynb goes once, between the look at the folder and that into the file."""

    def digest(path: Path, real=planning.digest) -> str:
        if path.name == "bob.ipynb":
            monkeypatch.setattr(planning, "digest", real)
            path.unlink()
        return real(path)

    monkeypatch.setattr(planning, "digest", digest)


def said(found: Folder) -> list[str]:
    return [line.split(" ", 1)[1] for line in found.said]


def test_a_file_that_goes_while_it_is_looked_at_ends_no_watch(no_boxes: None, vanishes: None, course: Path):
    put("ann.ipynb", RIGHT)(course / "subs")
    found = Folder(course, [put("bob.ipynb", RIGHT), wait, wait, put("bob.ipynb", RIGHT), wait, wait], False)
    ann, gone, back = said(found)
    assert (ann, back) == ("ann: 6 of 6, right", "bob: 6 of 6, right")
    assert gone.startswith("bob: no mark, the grader failed") and gone.endswith("(No such file)")
    assert {e.id: e.total for e in collect.read(found.batch.out)} == {"ann": 6, "bob": 6}


@pytest.mark.parametrize("best, first, second, counts", [
    (False, WRONG, RIGHT, 6), (True, WRONG, RIGHT, 6), (False, RIGHT, WRONG, 0), (True, RIGHT, WRONG, 6),
])  # fmt: skip
def test_who_hands_in_again_under_another_name_keeps_the_best_or_last(no_boxes, course, best, first, second, counts):
    (course / "roster.csv").write_text("id\nann")
    shutil.move(course / "course.ipynb", course / "06_lora.ipynb")
    steps = [put("ann.ipynb", first), wait, wait, put("ann_06_lora.ipynb", second), wait, wait]
    found = Folder(course, steps, best, notebook=course / "06_lora.ipynb", roster=course / "roster.csv")
    assert [line.split(" of ")[0] for line in said(found)] == [f"ann: {6 if first == RIGHT else 0}", f"ann: {counts}"]
    assert [(e.id, e.total) for e in collect.read(found.batch.out)] == [("ann", counts)]


def test_what_the_grader_failed_at_is_told_once_and_tried_again(no_boxes: None, course: Path, monkeypatch):
    monkeypatch.setattr(watching, "PAUSE", 2)
    FAILS[0] = 2
    found = Folder(course, [put("ann.ipynb", RIGHT), *8 * [wait]], False)
    first, second = said(found)
    assert first.startswith("ann: no mark, the grader failed") and first.endswith("(no space left)")
    assert second == "ann: 6 of 6, right"
    assert (found.batch.out / "events.jsonl").read_text().count('"begin"') == 3  # two looks apart, and then no more


def command(course: Path, *words: str) -> list[str]:
    return ["grade", *words, str(course / "subs"), "--out", str(course / "marks"), "--notebook",
            str(course / "course.ipynb"), "--unsafe-no-isolation"]  # fmt: skip


def test_what_cannot_be_read_is_named_and_the_others_are_graded(no_boxes: None, vanishes: None, course: Path):
    for name in ("ann.ipynb", "bob.ipynb"):
        put(name, RIGHT)(course / "subs")
    done = CliRunner().invoke(app, command(course))
    assert done.exit_code == 3, done.output
    assert done.output.count("bob: bob.ipynb cannot be read: No such file or directory\n") == 1
    assert {e.id: e.total for e in collect.read(course / "marks")} == {"ann": 6, "bob": None}


def test_ctrl_c_ends_the_watch_and_the_same_command_goes_on(no_boxes: None, course: Path, monkeypatch):
    put("ann.ipynb", RIGHT)(course / "subs")
    for lines in (["ann: 6 of 6, right"], []):
        looks = iter([None, None])

        def sleep(seconds: float, looks=looks) -> None:
            assert seconds in (0, 0.5)
            if next(looks, "Ctrl-C") is not None:
                raise KeyboardInterrupt

        monkeypatch.setitem(watch.__kwdefaults__, "sleep", sleep)
        done = CliRunner().invoke(app, command(course, "watch") + ["--every", "0.5"])
        head, *marks, blank, end = done.output.splitlines()
        assert head.startswith(f"watching {course / 'subs'}; marks go to ") and blank == ""
        assert [line.split(" ", 1)[1] for line in marks] == lines
        assert (done.exit_code, end) == (130, "coursekit: stopped; run the same command again to go on from here")


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
    assert done.exit_code == 0 and json.loads((repository / "result.json").read_text())["score"] == 0, done.output
