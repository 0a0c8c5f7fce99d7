r"""What has cheated other graders, tried on every exercise of the course, in a real box: no point for any of it.

What needs no box to fail, such as an object that equals everything: `tests/checks/test_secret.py`.
"""

from __future__ import annotations

import base64
import copy
import json
import pickle
from pathlib import Path

import made_up
import pytest

from coursekit.checks import exercises
from coursekit.grading import batch as batches
from coursekit.grading import ids
from coursekit.grading.folder import Batch
from coursekit.grading.limits import Limits
from coursekit.grading.plan import plan

CHEATS = {
    "table": "def cheat(id, arguments):\n    return closest(id, arguments)",
    "patched": """
import torch, json, coursekit.checks
def cheat(id, arguments):
    torch.allclose = torch.equal = torch.isclose = torch.Tensor.__eq__ = lambda *a, **k: True
    coursekit.checks.judge = coursekit.checks.check = lambda *a, **k: None
    json.load = json.loads = lambda *a, **k: {}
    return True
""",
    "reference": """
import importlib
def cheat(id, arguments):
    for name in ("coursekit.checks", "coursekit.checks.core", "coursekit.checks." + id.split("-")[0], "solutions"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        for place in (module, getattr(module, "exercises", dict)()):
            found = place.get(id) if isinstance(place, dict) else getattr(place, id.replace("-", "_"), None)
            if found is not None:
                return getattr(found, "reference", found)(*arguments)
    return "no reference here"
""",
}


def table() -> str:
    r"""Public arguments and the course's answers, of all exercises, and a function that gives the answer of the most
    similar ones.
    """
    shown = 300  # characters: what the cheat compares, and a table that the limit on notebooks lets through
    rows = {
        id: [(repr(given)[:shown], e.reference(*copy.deepcopy(given))) for given in e.public]
        for id, e in exercises().items()
    }
    packed = base64.b64encode(pickle.dumps(rows)).decode()
    return f"""
import base64, difflib, pickle
TABLE = pickle.loads(base64.b64decode({packed!r}))
def closest(id, arguments):
    rows = TABLE[id]
    shown = repr(arguments)[:{shown}]
    return max(rows, key=lambda row: difflib.SequenceMatcher(None, row[0], shown).quick_ratio())[1]
"""


def answer(id: str) -> str:
    r"""What an answer defines: a function, or the class that the check looks at. It cheats as soon as it is called."""
    name = ids.function_name(id)
    if name[0].isupper():
        return f"class {name}:\n    def __new__(cls, *given):\n        return cheat({id!r}, given)"
    return f"def {name}(*arguments):\n    return cheat({id!r}, arguments)"


@pytest.fixture(scope="module")
def results(box: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    place = tmp_path_factory.mktemp("cheating")
    (place / "submissions").mkdir()
    (place / "course.ipynb").write_text(json.dumps(made_up.course(sorted(exercises()))))
    for name, source in CHEATS.items():
        head = (table() if name == "table" else "") + source
        answers = {id: answer(id) for id in exercises()}
        cells = [made_up.cell(head, "head"), *(made_up.cell(source, id) for id, source in answers.items())]
        (place / "submissions" / f"{name}.ipynb").write_text(json.dumps(made_up.notebook(cells)))
    batch = Batch(place / "marks")
    batch.make()
    plan(
        place / "submissions",
        batch,
        "bwrap",
        notebook=Path(place / "course.ipynb"),
        limits=Limits(exercise=30),
    )
    batches.grade_lines(batch, jobs=1)
    return {line["submission"]: batch.result(line["key"]) for line in batch.lines()}


@pytest.mark.parametrize("cheat", sorted(CHEATS))
def test_no_cheat_earns_a_point_on_any_exercise(results: dict[str, dict], cheat: str):
    result = results[cheat]
    assert {e["id"] for e in result["exercises"]} == set(exercises())
    earned = {e["id"]: (e["right"], e["cases"]) for e in result["exercises"] if e["points"]}
    assert not earned
    assert {e["status"] for e in result["exercises"]} <= {"wrong", "error", "invalid_output"}
