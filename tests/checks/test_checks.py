r"""Every exercise: the reference answer passes, every mutant fails with its own message, and nothing raises."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from coursekit.checks import check, every_kind, exercises, lora_train, yours
from coursekit.checks.core import Result
from coursekit.checks.numeric import Numeric
from coursekit.checks.training import PUBLIC
from coursekit.checks.which_method import POWER, new_seeds, of_each_method
from coursekit.grading.ids import hints
from tests.checks.answers import SOLUTIONS

ROOT = Path(__file__).resolve().parents[2]
ALL = exercises()
#: With those that train and those of numbers of one's own.
KINDS = every_kind()
MUTANTS = [(e, *mutant) for e in ALL.values() for mutant in e.mutants.items()]


@pytest.mark.parametrize("id", ALL)
def test_the_solution_passes(id):
    result = check(id, SOLUTIONS[ALL[id].name])
    assert (result.status, result.points) == ("passed", ALL[id].points), result


@pytest.mark.parametrize("exercise, message, wrong", MUTANTS, ids=[f"{e.id}-{i}" for i, (e, *_) in enumerate(MUTANTS)])
def test_each_mutant_fails_with_its_own_message(exercise, message, wrong):
    result = check(exercise.id, wrong)
    said = result.message.split(" (and then it stopped with ")[0]  # a mistake that does not run on every input
    assert (result.status, said, result.points) == ("failed", message, 0)


def test_an_empty_answer_is_not_attempted_and_one_for_some_inputs_only_is():
    for nothing in (None, ...):
        result = check("lora-merge", lambda *_, nothing=nothing: nothing)
        assert (result.status, result.points) == ("not attempted", 0)

    def half(weights, gradients, optimizer, gpus, stage):
        if stage < 3:
            return ALL["memory-sharded"].reference(weights, gradients, optimizer, gpus, stage)

    result = check("memory-sharded", half)
    assert result.status == "failed" and "returns nothing for some inputs" in result.message


def test_answers_that_break_are_told_why_and_never_raise():
    class Yes:
        def __eq__(self, other):
            return True

    class Bomb(torch.Tensor):
        def __getattribute__(self, name):
            raise RuntimeError("boom")

    def explode(*_):
        raise ValueError("my\nown\nerror")

    exercise = ALL["lora-merge"]
    shape = tuple(exercise.answer(exercise.public[0]).shape)
    cases = [
        (explode, "it stopped with ValueError: my own error"),
        (lambda *_: Yes(), "it returns a Yes, expected a tensor"),
        (lambda W, A, B, alpha: torch.zeros(2), f"its shape is (2,), expected {shape}"),
        (lambda W, A, B, alpha: torch.full(shape, torch.nan), "it holds NaN or infinity"),
        (lambda W, A, B, alpha: torch.zeros(shape), "the shape is right, the values are not"),
        (lambda x: x, "it stopped with TypeError"),
        (torch.zeros(2), "pass the function itself"),
        (lambda *_: 3.0, "expected a tensor"),
    ]
    for answer, said in cases:
        result = check("lora-merge", answer)
        assert result.status == "failed" and said in result.message, result
        assert "\n" not in repr(result)
    assert check("lora-mrge", explode).message.startswith("unknown exercise 'lora-mrge'; did you mean 'lora-merge'?")
    turned = check("lora-truncate", lambda W, r: ALL["lora-truncate"].reference(W, r).T)
    assert turned.message.endswith("(transposed?)")


def test_an_answer_that_changes_its_arguments_changes_nobody_else_s():
    def vandal(W, r):
        kept = ALL["lora-truncate"].reference(W, r)
        W.zero_()  # whoever looks at it next has another right answer
        return kept

    assert check("lora-truncate", vandal).status == "passed"

    def wrong_vandal(W, r):
        return vandal(W, r).zero_()

    result = check("lora-truncate", wrong_vandal)
    assert result.status == "failed" and result.message.startswith("the shape is right, the values are not")


def test_an_error_after_right_answers_is_no_mistake_of_those_answers():
    def trains(names, head):
        chosen = [n for n in names if n.endswith(".bias") or n.startswith(f"{head}.")]
        return chosen if len(chosen) > 1 else lost  # noqa: F821

    result = check("bitfit-trains", trains)
    assert result.message == "it stopped with NameError: name 'lost' is not defined"


def test_an_error_after_a_known_mistake_is_said_with_it():
    def columns(W, b, parts):
        return tuple(ALL["hybrid-fold"].mutants.values())[4](W, b, parts)

    said = check("hybrid-fold", columns).message
    assert said.startswith("l multiplies the columns of W; it has") and "(and then it stopped with RuntimeError" in said


def test_a_mistake_in_a_number_is_known_as_a_number_and_as_a_tensor():
    exercise = ALL["soft-prompts-gate-gradients"]
    message, averaged = list(exercise.mutants.items())[2]
    assert isinstance(averaged(*exercise.public[1])[0], torch.Tensor)

    def answer(*arguments):
        gate, prompts = averaged(*arguments)
        return gate.item(), prompts

    assert check(exercise.id, answer).message == message


@pytest.mark.parametrize("id, answer", [
    ("hybrid-plan", lambda pilot, smallest: [np.int64(s) for s in ALL["hybrid-plan"].reference(pilot, smallest)]),
    ("bitfit-fisher", lambda g, x, k: ALL["bitfit-fisher"].reference(g.float(), x.float(), k)),
    ("hybrid-gate", lambda x, w, b, mask: ALL["hybrid-gate"].reference(x.float(), w.float(), b.float(), mask)),
])  # fmt: skip
def test_numbers_of_numpy_and_in_fp32_count(id, answer):
    assert check(id, answer).status == "passed"


def test_the_numbers_of_a_case_are_said_where_they_are_few():
    def without_inputs(*sizes):
        rows, seq, d, *_ = sizes
        return ALL["memory-block"].reference(*sizes) + 4 * rows * seq * d // 7

    said = check("memory-block", without_inputs).message
    assert said.startswith(f"of {ALL['memory-block'].public[0]}: it returns ")
    assert check("lora-truncate", lambda W, r: 0 * W).message.startswith("the shape is right")


def test_seeds_are_rounded_up_and_not_to_the_nearest():
    def nearest(pilot, smallest):
        exact = POWER**2 * sum(of_each_method(pilot)) / smallest**2
        return new_seeds(pilot, max(3, round(exact)))

    assert check("hybrid-plan", nearest).message.startswith("this rounds down or to the nearest")


@pytest.mark.parametrize(("factors", "said"), [
    (lambda A, B, s, w: (sum(A), sum(x * y * z for x, y, z in zip(B, s, w, strict=True))), "cross terms, such as B1"),
    (lambda A, B, s, w: (ALL["ship-sum"].reference(A, B, s, w)[0] * (-1) ** 0.5, torch.cat(B, 1)), "is complex"),
], ids=["added", "complex"])  # fmt: skip
def test_factors_that_are_added_up_or_complex_are_told_so(factors, said):
    assert said in check("ship-sum", factors).message


def test_a_mask_holds_true_and_false():
    def numbers(g, x, k):
        scores, mask = ALL["bitfit-fisher"].reference(g, x, k)
        return scores, mask.int()

    assert "it holds numbers (int32), expected True and False" in check("bitfit-fisher", numbers).message


def test_a_later_cell_runs_the_student_s_function_as_soon_as_it_is_right(capsys):
    def right(names, head):
        return [n for n in names if n.endswith(".bias") or n.startswith(f"{head}.")]

    assert yours("bitfit-trains", right) is right
    for empty in (lambda names, head: ..., lambda names, head: list(names), lambda names, head: 1 / 0):
        assert yours("bitfit-trains", empty) is ALL["bitfit-trains"].reference
    assert yours("which-method-leader", lambda runs: ...) is every_kind()["which-method-leader"].fair
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("runs yours") and all("the course’s, until yours passes" in line for line in said[1:])


def test_feedback_finds_the_hints_of_every_exercise():
    found = {id: told for path in (ROOT / "notebooks").glob("*.ipynb") for id, told in hints(path).items()}
    assert set(found) == set(KINDS) and all(told and all(told) for told in found.values())


def nbgrader_cells(path):
    for cell in json.loads(path.read_text())["cells"]:
        if "nbgrader" in cell["metadata"]:
            yield "".join(cell["source"]), cell["metadata"]["nbgrader"]


def test_notebooks_and_exercises_know_each_other():
    r"""A stub, and right after it its check, with the metadata of nbgrader's schema 3 and the exercise's points."""
    flags = {"schema_version": 3, "task": False}
    found = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = list(nbgrader_cells(path))
        assert len(cells) % 2 == 0
        for (stub, answer), (source, checked) in zip(cells[::2], cells[1::2], strict=True):
            exercise = KINDS[answer["grade_id"]]
            found.append(exercise.id)
            assert f"def {exercise.name}(" in stub
            assert answer == flags | {"grade": False, "grade_id": exercise.id, "locked": False, "solution": True}
            own = ", variant" if isinstance(exercise, Numeric) else ""
            assert source == f'check("{exercise.id}", {exercise.name}{own})'
            assert checked == flags | {
                "grade": True,
                "grade_id": f"{exercise.id}-check",
                "locked": True,
                "points": exercise.points,
                "solution": False,
            }
    assert sorted(found) == sorted(KINDS)
    assert all(re.fullmatch(r"[a-zA-Z0-9-]+", id) for id in ALL)


def test_a_result_breaks_at_words_in_a_notebook():
    from IPython.lib.pretty import pretty

    result = check("lora-merge", lambda *_: 1 / 0)
    long = Result("lora-merge", "failed", "more than half of the gain stays " * 8)
    shown = pretty(long)
    assert shown.split() == repr(long).split() and max(map(len, shown.splitlines())) <= 100
    assert pretty(result) == repr(result)


def test_a_value_of_several_is_named():
    answer = ALL["lora-linear"].reference
    said = check("lora-linear", lambda *given: (*answer(*given)[:2], 1, answer(*given)[3])).message
    assert said.startswith("value 3 of 4 (how many numbers train): it returns 1 where ")
    named = [e for e in ALL.values() if e.parts]
    assert {e.id: len(e.parts) for e in named} == {e.id: len(e.answer(e.public[0])) for e in named}


@pytest.mark.slow
def test_three_steps_are_not_enough_for_lora_train():
    posing = lora_train.TRAIN.posing(PUBLIC)
    *given, alpha = posing.arguments
    torch.manual_seed(0)
    scored = lora_train.TRAIN.scored(posing, lora_train._trained(*given, alpha / lora_train.R, steps=3))
    assert scored.share < 1 and scored.measured > lora_train.WORKED


def test_a_judge_of_one_exercise_loads_no_transformers():
    r"""It loads all exercises at each start, in two seconds of CPU time; with transformers these were seven."""
    code = """import sys
from coursekit.grading.work import Work
Work(b"", ["lora-truncate"], 4).facts()
print(*{"transformers", "datasets", "scipy", "sympy", "matplotlib"} & {*sys.modules})"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "\n", (done.stdout, done.stderr)
