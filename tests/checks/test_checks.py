r"""Every exercise: the reference answer passes, every mutant fails with its own message, and nothing raises."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from coursekit.checks import check, exercises, hint
from coursekit.checks.compare import difference
from coursekit.errors import CourseError

ROOT = Path(__file__).resolve().parents[2]
ALL = exercises()
MUTANTS = [(e, m) for e in ALL.values() for m in e.mutants]


def solutions() -> dict[str, object]:
    found = {}
    for path in (ROOT / "tests" / "solutions").glob("*.py"):
        spec = importlib.util.spec_from_file_location(f"solutions_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found |= {n: f for n, f in vars(module).items() if callable(f)}
    return found


SOLUTIONS = solutions()


@pytest.mark.parametrize("id", ALL)
def test_the_solution_passes(id):
    result = check(id, SOLUTIONS[ALL[id].name])
    assert (result.status, result.points) == ("passed", ALL[id].points), result


@pytest.mark.parametrize("id", ALL)
def test_the_reference_passes(id):
    assert check(id, ALL[id].reference).status == "passed"


@pytest.mark.parametrize("exercise, mutant", MUTANTS, ids=[f"{e.id}-{i}" for i, (e, _) in enumerate(MUTANTS)])
def test_each_mutant_fails_with_its_own_message(exercise, mutant):
    result = check(exercise.id, mutant.function)
    said = result.message.split(" (and then it stopped with ")[
        0
    ]  # a mistake that does not run on every input
    assert (result.status, said, result.points) == ("failed", mutant.message, 0)
    assert sum(m.message == mutant.message for m in exercise.mutants) == 1


@pytest.mark.parametrize("id", ALL)
def test_an_empty_answer_is_not_attempted(id):
    for nothing in (None, ...):
        result = check(id, lambda *_, nothing=nothing: nothing)
        assert (result.status, result.points) == ("not attempted", 0)


def test_an_answer_for_some_inputs_only_is_no_empty_answer():
    def half(weights, gradients, optimizer, gpus, stage):
        if stage < 3:
            return ALL["memory.sharded"].reference(weights, gradients, optimizer, gpus, stage)

    result = check("memory.sharded", half)
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

    cases = [
        (explode, "it stopped with ValueError: my own error"),
        (lambda *_: Yes(), "it returns a Yes, expected a tensor"),
        (lambda x, W, b, A, B, alpha: torch.zeros(2), "its shape is (2,), expected (2, 3, 6)"),
        (lambda x, W, b, A, B, alpha: torch.full((2, 3, 6), torch.nan), "it holds NaN or infinity"),
        (lambda x, W, b, A, B, alpha: torch.zeros(2, 3, 6), "the shape is right, the values are not"),
        (lambda x: x, "it stopped with TypeError"),
        (torch.zeros(2), "pass the function itself"),
        (lambda *_: 3.0, "expected a tensor"),
    ]
    for answer, said in cases:
        result = check("lora.forward", answer)
        assert result.status == "failed" and said in result.message, result
        assert "\n" not in repr(result)
    assert check("lora.forwrd", explode).message.startswith(
        "unknown exercise 'lora.forwrd'; did you mean 'lora.forward'?"
    )
    assert check("lora.merge", lambda W, A, B, alpha: (W + alpha / len(A) * B @ A).T).message.endswith(
        "(transposed?)"
    )


@pytest.mark.parametrize("expected", [torch.tensor(1.0), torch.ones(3), torch.ones(2, 3)])
@pytest.mark.parametrize("given", [torch.tensor(1.0), torch.ones(4), torch.ones(4, 3), torch.ones(2, 2, 3)])
def test_any_two_shapes_can_be_compared(given, expected):
    said = difference(given, expected, 1e-6)
    assert (
        said is None
        if given.shape == expected.shape
        else said.startswith(f"its shape is {tuple(given.shape)}")
    )


def test_whole_numbers_are_written_out():
    assert difference(2_399_232, 2_379_264, 1e-9) == "it returns 2,399,232 where 2,379,264 is right"


def test_an_answer_that_changes_its_arguments_changes_nobody_else_s():
    def vandal(W, A, B, alpha):
        W += alpha / A.shape[0] * (B @ A)
        A.zero_()
        return W

    assert check("lora.merge", vandal).status == "passed"


def test_an_error_after_right_answers_is_no_mistake_of_those_answers():
    def work(layers, k, matrices):
        return layers + 2 * k if matrices else layers + lost

    result = check("bitfit.work", work)
    assert result.message == "it stopped with NameError: name 'lost' is not defined"


def test_an_error_after_a_known_mistake_is_said_with_it():
    def swapped(x, A, s, t):
        return ALL["hybrid.kronecker"].reference(x, A, t, s)

    said = check("hybrid.kronecker", swapped).message
    assert said.startswith("s and t are swapped") and "(and then it stopped with RuntimeError" in said


@pytest.mark.parametrize("id, answer", [
    ("bitfit.count", lambda shapes, head: sum(
        np.prod(s) for name, s in shapes.items() if name.endswith(".bias") or name.startswith(f"{head}."))),
    ("hybrid.pareto", lambda n, q: [np.bool_(flag) for flag in ALL["hybrid.pareto"].reference(n, q)]),
    ("bitfit.fisher", lambda g, x, k: ALL["bitfit.fisher"].reference(g.float(), x.float(), k)),
    ("hybrid.kronecker", lambda x, A, s, t: ALL["hybrid.kronecker"].reference(
        *(factor.float() for factor in (x, A, s, t))).double()),
])  # fmt: skip
def test_numbers_of_numpy_and_in_fp32_count(id, answer):
    assert check(id, answer).status == "passed"


def test_a_mask_holds_true_and_false():
    def numbers(g, x, k):
        scores, mask = ALL["bitfit.fisher"].reference(g, x, k)
        return scores, mask.int()

    assert "it holds numbers (int32), expected True and False" in check("bitfit.fisher", numbers).message


def test_hints():
    for exercise in ALL.values():
        for number in range(1, len(exercise.hints) + 1):
            assert exercise.hints[number - 1] in hint(exercise.id, number)
        with pytest.raises(CourseError, match="take a number from 1"):
            hint(exercise.id, len(exercise.hints) + 1)
    with pytest.raises(CourseError, match="did you mean 'lora.merge'"):
        hint("lora.mrge")


@pytest.mark.parametrize("given, expected, same", [
    (1.0, 1, True), (2, 1, False), (True, 1, False), ("1", 1, False), (float("nan"), 1.0, False),
    ([1, 2], (1, 2), True), ((1, 2, 3), (1, 2), False), (torch.tensor(1.0), 1.0, True), (True, True, True),
    (1, True, False), ("a", "a", True), ("a", "b", False), (torch.ones(2), torch.ones(2), True),
    (torch.ones(2, dtype=torch.int64), torch.ones(2), True), (torch.ones(2) * 1.1, torch.ones(2), False),
])  # fmt: skip
def test_what_counts_as_the_same(given, expected, same):
    assert (difference(given, expected, 1e-6) is None) == same


def test_notebooks_and_exercises_know_each_other():
    asked = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            meta = cell["metadata"].get("nbgrader", {})
            if meta.get("solution"):
                asked[meta["grade_id"]] = meta["points"]
                assert f"def {meta['grade_id'].replace('.', '_')}(" in "".join(cell["source"]), path
    assert asked == {e.id: e.points for e in ALL.values()}
