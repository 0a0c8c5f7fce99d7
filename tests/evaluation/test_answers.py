r"""Rules for answers: every answer of the data passes, and what people and models get wrong does not."""

from __future__ import annotations

import json

import pytest

from coursekit.errors import CourseError
from coursekit.evaluation.answers import (
    form_score,
    has_form,
    is_right,
    right_score,
)
from coursekit.paths import DATA
from coursekit.tasks import load_instructions

ROWS = [
    row
    for row in map(json.loads, (DATA / "instructions.jsonl").read_text(encoding="utf-8").splitlines())
    if row["check"]
]


@pytest.mark.parametrize("row", [pytest.param(row, id=row["id"]) for row in ROWS])
def test_every_answer_of_the_data_has_its_form_and_is_right(row):
    assert has_form(row["check"], row["output"])
    assert is_right(row["check"], row["output"]) is (None if row["check"]["type"] == "python" else True)
    talked = f"Sure! Here is the answer that you asked me for:\n\n{row['output']}\n\nI hope this helps you."
    assert not has_form(row["check"], talked), (
        "an answer that is talked around has not the form that was asked for"
    )


@pytest.mark.parametrize(
    ("check", "answer", "form", "right"),
    [
        (dict(type="choice", value="cat", options=["cat", "dog"]), "dog", True, False),
        (dict(type="choice", value="cat", options=["cat", "dog"]), "Cat", False, False),
        (dict(type="choice", value="cat", options=["cat", "dog"]), "cat.", False, False),
        (dict(type="number", value=1200), "1,200 m", True, True),
        (dict(type="number", value=15), "The area is 15", True, True),
        (dict(type="number", value=15), "The area of the triangle is 15 cm^2", False, True),
        (dict(type="number", value=15), "fifteen", False, False),
        (dict(type="number", value=15), "-15", True, False),
        (dict(type="text", value="Tom runs."), "Tom walks.", True, False),
        (dict(type="text", value="Tom runs."), "Tom\nruns.", False, False),
        (dict(type="list", value=["a", "b"]), "- a\n- b", True, True),
        (dict(type="list", value=["a", "b"]), "b, a", True, False),
        (dict(type="list", value=["a", "b"]), "a, b, c", False, False),
        (dict(type="list", value=["a", "b"]), "a\nb", False, False),
        (dict(type="words", value=3), "one two three", True, True),
        (dict(type="words", value=3), "one two three four", False, False),
        (dict(type="contains", value="Paris"), "It is paris.", True, True),
        (dict(type="contains", value="Paris"), "Parisian", True, False),
        (dict(type="json", value={"a": True}), '{"a": 1}', True, False),
        (dict(type="json", value={"a": 1, "b": 2}), '{"b": 2, "a": 1}', True, True),
        (dict(type="json", value={"a": 1}), "{'a': 1}", False, False),
        (dict(type="json", value={"a": 1}), "1", False, False),
        (dict(type="python", value=[]), "def f(x):\n    return x", True, None),
        (dict(type="python", value=[]), "```python\ndef f(x):\n    return x\n```", False, None),
        (dict(type="python", value=[]), "raise SystemExit", False, None),
        (dict(type="steps", value=2), "1. Go.\n2. Stop.", True, True),
        (dict(type="steps", value=2), "1. Go.\n3. Stop.", False, False),
        (dict(type="steps", value=2), "1. Go.\n2.", False, False),
    ],
)  # fmt: skip
def test_rules_worked_by_hand(check, answer, form, right):
    assert (has_form(check, answer), is_right(check, answer)) == (form, right)
    assert has_form(check, f"  {answer}\n") == form
    assert not has_form(check, "")


def test_python_is_parsed_and_never_run(tmp_path):
    trap = tmp_path / "trap"
    code = f"open({str(trap)!r}, 'w').close()\ndef f():\n    return 1"
    assert has_form(dict(type="python", value=[["f()", 1]]), code) and not trap.exists()
    assert is_right(dict(type="python", value=[["f()", 1]]), code) is None and not trap.exists()


def test_scores_count_what_has_a_rule():
    rows = load_instructions()["test"]
    checked = [check for check in rows["check"] if check]
    form, right = form_score(rows["check"], rows["output"]), right_score(rows["check"], rows["output"])
    assert form.n == len(checked) < len(rows) and form.value == 1.0
    assert right.n == sum(json.loads(check)["type"] != "python" for check in checked) and right.value == 1.0
    assert form_score(rows["check"], ["?"] * len(rows)).value < 0.5


def test_an_unknown_rule_is_one_clear_line():
    with pytest.raises(CourseError, match="unknown type of check 'jsn'; did you mean 'json'"):
        has_form(dict(type="jsn", value={}), "{}")
    with pytest.raises(CourseError, match="needs value"):
        is_right(dict(type="json"), "{}")
