r"""Secret cases: bounded, new, and such that mistakes are told apart; what only looks right scores nothing.

That every answer gets its points and every mistake its message: `tests/grading/test_selftest.py`.
"""

import builtins
import copy
import dis
import functools
import inspect
import os
from dataclasses import replace
from difflib import SequenceMatcher

import pytest
import torch

from coursekit.checks import core, exercises, judge
from coursekit.checks.draw import Draw
from coursekit.checks.training import PUBLIC, Training
from coursekit.errors import CourseError
from coursekit.grading.inside import wire
from tests.checks.test_compare import Yes

ALL = exercises()
each_exercise = pytest.mark.parametrize("exercise", ALL.values(), ids=ALL)
#: A fresh one for each run, so that many runs try many; a failure shows it.
FRESH = os.urandom(16)


@functools.cache
def cases_of(id):
    r"""Two of each kind, drawn once: that takes longest."""
    return ALL[id].cases(FRESH, 2 * ALL[id].kinds)


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


def score(exercise, cases, function):
    r"""How many of the cases a function gets right, with what it does to its arguments and any error it makes."""
    right = 0
    for arguments in cases:
        try:
            value = function(*copy.deepcopy(arguments))
        except Exception:
            continue
        right += judge(exercise, arguments, value) is None
    return right


@each_exercise
def test_cases_follow_from_the_secret_and_stay_small(exercise):
    n, cases = exercise.kinds, cases_of(exercise.id)
    # The same whether one or two of each kind are asked for.
    assert repr(exercise.cases(FRESH, n)) == repr(cases[:n]) and len(cases) == 2 * n
    one, other = (repr(exercise.secret(Draw(secret, "a draw", 0))) for secret in (FRESH, b"another"))
    assert one != other
    assert all(tensor.numel() <= 4096 for tensor in tensors(cases))
    assert all(len(part) <= 200 for arguments in cases for part in arguments if isinstance(part, list | tuple))


def functions(value):
    if isinstance(value, functools.partial):
        value = [value.func, *value.args]
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from functions(part)
    elif inspect.isfunction(value):
        yield value


def global_names(code):
    own = {one.argval for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"}
    return own.union(*(global_names(inner) for inner in code.co_consts if inspect.iscode(inner)))


@pytest.mark.parametrize("id", core.every_kind())
def test_functions_that_go_into_a_box_find_all_that_they_use_there(id):
    exercise = core.every_kind()[id]
    if isinstance(exercise, core.Exercise):
        given = cases_of(id)
    else:
        given = exercise.posing(PUBLIC).arguments if isinstance(exercise, Training) else ()
    for function in functions(given):
        sent = wire.decode(wire.encode_argument(function), code=True)
        assert not global_names(sent.__code__) - sent.__globals__.keys() - vars(builtins).keys(), sent.__name__


def test_too_few_cases_for_their_kinds_are_refused():
    with pytest.raises(CourseError, match="memory-sharded needs 4 cases or more, one of each kind; got 2."):
        ALL["memory-sharded"].cases(FRESH, 2)


def test_an_exercise_whose_cases_do_not_tell_its_mistakes_apart_is_found(monkeypatch):
    monkeypatch.setattr(core, "TRIES", 20)
    truncate = ALL["lora-truncate"]

    def at_full_rank(draw: Draw):
        W, _ = truncate.secret(draw)
        return W, min(W.shape)

    with pytest.raises(CourseError, match="tell its mistakes apart"):
        replace(truncate, secret=at_full_rank).cases(FRESH, 2)
    twice = truncate.mutants | {"the same mistake in other words": next(iter(truncate.mutants.values()))}
    with pytest.raises(CourseError, match="tell its mistakes apart"):
        replace(truncate, mutants=twice).cases(FRESH, 2)
    with pytest.raises(CourseError, match="tell its mistakes apart"):  # a small table would hold all answers
        replace(truncate, secret=lambda draw: (torch.diag(torch.arange(5.0)), draw.whole(1, 3))).cases(FRESH, 4)


@each_exercise
def test_an_answer_worked_out_in_single_precision_counts(exercise):
    if torch.float64 not in {t.dtype for t in tensors(exercise.public[0])}:
        pytest.skip("computes with no tensor of fp64")

    def single(value):
        return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    cases = cases_of(exercise.id)
    assert score(exercise, cases, lambda *a: exercise.reference(*map(single, a))) == len(cases), FRESH


# What only looks right ------------------------------------------------------------------------------------


def table_of_public_answers(exercise):
    r"""Knows the public cases; gives the answer of the most similar one."""
    known = [(repr(given)[:300], exercise.answer(given)) for given in exercise.public]
    return lambda *a: max(known, key=lambda row: SequenceMatcher(None, row[0], repr(a)[:300]).quick_ratio())[1]


CHEATS = {
    "a table of the public answers": table_of_public_answers,
    "an object that is equal to everything": lambda exercise: lambda *_: Yes(),
    "a tuple of such objects": lambda exercise: lambda *_: (Yes(), Yes()),
    "its own arguments": lambda exercise: lambda *arguments: arguments,
    "its first argument": lambda exercise: lambda *arguments: arguments[0],
    "nothing": lambda exercise: lambda *_: None,
    "True": lambda exercise: lambda *_: True,
    "0": lambda exercise: lambda *_: 0,
    "NaN": lambda exercise: lambda *_: float("nan"),
    "a tensor of NaN": lambda exercise: lambda *a: torch.full_like(exercise.answer(a), torch.nan),
    "words": lambda exercise: lambda *_: "the right answer",
    "the source of the reference": lambda exercise: lambda *_: exercise.reference,
    "the right answer in a class of its own": lambda exercise: lambda *a: Own(exercise.answer(a)),
}


class Own(tuple):
    __slots__ = ()

    def __new__(cls, value):
        return super().__new__(cls, value if isinstance(value, tuple) else (value,))


@each_exercise
def test_what_only_looks_right_scores_nothing(exercise):
    cases = cases_of(exercise.id)
    scores = {name: score(exercise, cases, cheat(exercise)) for name, cheat in CHEATS.items()}
    assert scores == dict.fromkeys(CHEATS, 0), FRESH


@each_exercise
def test_a_verdict_gives_nothing_away(exercise):
    r"""Whatever comes out of the box, what is said of it holds no number of the case, its answer or the value."""
    (arguments, *_), numbers = cases_of(exercise.id), []
    for value in (123456.789, 987654, "s3cret", (123456.789, 987654), torch.full((2, 3), 123456.789), None):
        said = judge(exercise, arguments, value)
        assert said and "\n" not in said and len(said) < 150
        assert not any(part in said.replace(",", "") for part in ("123456", "987654", "s3cret"))
        numbers.append(said)
    assert len(set(numbers)) > 1


def test_a_value_that_cannot_be_compared_is_wrong():
    exercise = ALL["lora-truncate"]
    arguments, _ = exercise.cases(FRESH, 2)
    sparse = exercise.answer(arguments).to_sparse()
    said = judge(exercise, arguments, sparse)
    assert said is not None and said.startswith("it returns something that cannot be compared")
