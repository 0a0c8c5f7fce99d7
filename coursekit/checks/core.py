r"""Exercises as data, and the check that a student runs on an answer.

A check never raises and never ends a notebook: it says not attempted, failed with the likely mistake, or passed.
Each exercise knows wrong answers by name (mutants): whoever makes one of those mistakes is told which.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from coursekit.checks.compare import Comparison, Judge, Own
from coursekit.checks.draw import Draw
from coursekit.errors import CourseError, unknown

SEEDS = (0, 1, 2)
#: Arguments of a public case are written out up to so many letters.
SHOWN = 80
#: Letters of a line of a result in a notebook, which would break it anywhere.
WIDTH = 100
#: So often a group of secret cases is drawn anew where it does not tell all mistakes apart.
TRIES = 200

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class BaseExercise:
    r"""What exercises of every kind have. `difficulty` is 1 (a line) to 5 (think first)."""

    id: str
    points: int
    difficulty: int
    minutes: int

    @property
    def name(self) -> str:
        r"""Name of the function that the student writes: `lora-merge` -> `lora_merge`."""
        return self.id.replace("-", "_")

    def looked_at(self, answer: Callable[..., Any], variant: int) -> tuple[str, str, float]:
        r"""Status, message and share of the points of the notebook's check; `variant` as in `check`. May raise what
        `answer` raises.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Exercise(BaseExercise):
    r"""A function that has a right answer for each of its inputs, and the most usual kind of exercise.

    `secret(draw)` makes the arguments of one case, of bounded size whatever the secret: for grading, and for the
    notebook's check, whose cases (three, or one of each kind) all may know; `inputs(seed)` makes those instead where
    the notebook shows them. Where a wrong answer is right for one kind of input by its nature, there are several
    `kinds`: draw.kind says which is wanted. `mutants` are wrong answers that people give, by what to tell them. `part`
    is what a notebook goes on with where the function is only how the check looks at a class, say. `dtype` as in
    Comparison; `judge` too, where many answers are right and the course's own says how good one has to be; `compare`
    where answers are compared in a way of their own. `parts` names the values of an answer that has several.
    """

    secret: Callable[[Draw], Arguments]
    reference: Callable[..., Any]
    mutants: dict[str, Callable[..., Any]]
    inputs: Callable[[int], Arguments] | None = None
    part: Any = None
    tolerance: float = 1e-5
    kinds: int = 1
    dtype: bool = False
    judge: Judge | None = None
    compare: type[Comparison] = Comparison
    parts: tuple[str, ...] = ()

    def looked_at(self, answer: Callable[..., Any], variant: int) -> tuple[str, str, float]:
        r"""As in BaseExercise; these are the same for everybody."""
        status, message = _check(self, answer)
        return status, message, float(status == "passed")

    def comparison(self, discreet: bool = False) -> Comparison:
        r"""How its answers are compared."""
        return self.compare(self.tolerance, self.dtype, discreet, self.judge, self.parts)

    @cached_property
    def public(self) -> list[Arguments]:
        r"""The arguments of the notebook's check, the same for everybody. Take a copy where they may be changed."""
        if self.inputs is not None:
            return [self.inputs(seed) for seed in SEEDS]
        return self._drawn(b"public", max(len(SEEDS), self.kinds), [])  # one of each kind at least

    def answer(self, arguments: Arguments) -> Any:
        r"""The right answer. The arguments stay as they are."""
        own = self.reference(*copy.deepcopy(arguments))
        return Own(arguments, own) if self.judge else own

    def cases(self, secret: bytes, n: int) -> list[Arguments]:
        r"""The arguments of `n` secret cases, the same for the same secret.

        Of `kinds` cases in a row, each of another kind, every mutant fails one, and no two mutants agree on all.
        No two cases have one answer, and none has that of a public case: a table of known answers is worth nothing.

        Raises CourseError where `n` is less than `kinds`.
        """
        if n < self.kinds:
            raise CourseError(f"{self.id} needs {self.kinds} cases or more, one of each kind; got {n}.")
        return self._drawn(secret, n, [self.answer(arguments) for arguments in self.public])

    def _drawn(self, secret: bytes, n: int, taken: list[Any]) -> list[Arguments]:
        r"""`n` cases with other answers than those that are `taken`."""
        cases: list[Arguments] = []
        while len(cases) < n:
            group, answers = self._group(secret, len(cases), taken)
            cases += group
            taken = taken + answers
        return cases[:n]

    def _group(self, secret: bytes, first: int, taken: list[Any]) -> tuple[list[Arguments], list[Any]]:
        same = self.comparison().difference
        for attempt in range(TRIES):
            names = [(f"{self.id}/{first + kind}/{attempt}", kind) for kind in range(self.kinds)]
            group = [self.secret(Draw(secret, name, kind)) for name, kind in names]
            answers = [self.answer(arguments) for arguments in group]
            known = [*taken, *answers]
            new = all(  # no known answer passes for the new case's, though the reverse may be
                same(other, answer) is not None
                for i, answer in enumerate(answers, start=len(taken))
                for other in known[:i]
            )
            if new and _tell_apart(self, group, answers):
                return group, answers
        raise CourseError(f"{self.id}: no {self.kinds} cases in {TRIES} tell its mistakes apart.")


@dataclass(frozen=True)
class Result:
    r"""What a check found: `status` is "passed", "failed" or "not attempted"."""

    id: str
    status: str
    message: str
    points: float = 0
    possible: int = 0

    def __repr__(self) -> str:
        mark = {"passed": "✓", "failed": "✗"}.get(self.status, "○")
        return f"{mark} {self.id}: {self.status} ({self.points:g}/{self.possible} points). {self.message}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        r"""In a notebook: wrapped at words."""
        lines = textwrap.wrap(repr(self), WIDTH, break_long_words=False, break_on_hyphens=False)
        printer.text("\n".join(lines))


def every_kind() -> dict[str, BaseExercise]:
    r"""Every exercise of the course, by id: functions to write, numbers to work out, things to train."""
    package, found = importlib.import_module("coursekit.checks"), dict[str, BaseExercise]()
    for module in pkgutil.iter_modules(package.__path__):
        for one in vars(importlib.import_module(f"{package.__name__}.{module.name}")).values():
            if isinstance(one, BaseExercise) and found.setdefault(one.id, one) is not one:
                raise CourseError(f"two exercises are called {one.id!r}")
    return found


def exercises() -> dict[str, Exercise]:
    r"""Those that ask for a function with one right answer for each input, by id."""
    return {id: e for id, e in every_kind().items() if isinstance(e, Exercise)}


def check(id: str, answer: Callable[..., Any], variant: int = 0) -> Result:
    r"""Try `answer` on the exercise's inputs and say how it went. Never raises.

    variant: the notebook's parameter of that name, for exercises in which everybody has numbers of his own.
    """
    try:
        known = every_kind()
        if id not in known:
            return Result(str(id), "failed", str(unknown("exercise", id, known)))
        exercise = known[id]
        if not callable(answer):
            said = f"pass the function itself: check({id!r}, {exercise.name}), without brackets"
            return Result(id, "failed", said, 0, exercise.points)
        status, message, share = exercise.looked_at(answer, variant)
        return Result(id, status, message, round(share * exercise.points, 1), exercise.points)
    except Exception as error:  # whatever a student's object does when it is looked at
        return Result(str(id), "failed", f"the answer could not be looked at: {_one_line(error)}")


def judge(exercise: Exercise, arguments: Arguments, value: Any) -> str | None:
    r"""None where `value` is the right answer for `arguments`; else what is wrong, in words that give neither away.

    Never raises, and runs nothing of the student's: `value` is what came out of the box, read as plain data.
    """
    expected = exercise.answer(arguments)
    try:
        return exercise.comparison(discreet=True).difference(value, expected)
    except Exception as error:  # a value that cannot be compared, such as a sparse tensor
        return f"it returns something that cannot be compared ({type(error).__name__})"


def mistake(exercise: Exercise, cases: Sequence[Arguments], values: Sequence[Any]) -> str | None:
    r"""The message of the known mistake that gives these `values` for these `cases`; None if there is none.

    Leave out cases for which there is no value, as where the answer stopped with an error.
    """
    if _agree(exercise, values, map(exercise.answer, cases)):
        return None
    for message, wrong in exercise.mutants.items():
        # One after the other: most differ from an answer in the first.
        given = (_as_number(_value(wrong, arguments), exercise.answer(arguments)) for arguments in cases)
        if _agree(exercise, values, given):
            return message
    return None


def _check(exercise: Exercise, answer: Callable[..., Any]) -> tuple[str, str]:
    cases = exercise.public
    values: list[Any] = []
    for arguments in cases:
        try:
            values.append(answer(*copy.deepcopy(arguments)))  # a copy: an answer may change what it is given
        except Exception as error:
            # What it answered before may show the mistake that the error comes from.
            wrong = mistake(exercise, cases[: len(values)], values)
            stopped = stopped_with(error)
            return "failed", f"{wrong} (and then {stopped})" if wrong else stopped
    empty = sum(is_empty(value) for value in values)
    if empty == len(cases):
        answer = "the cell above" if exercise.part else exercise.name  # a class, say, under a name of its own
        return "not attempted", f"fill in {answer} and run this cell again"
    if empty:
        return "failed", "it returns nothing for some inputs: every way through the function needs a return"
    for arguments, value in zip(cases, values, strict=True):
        if found := _first_difference(exercise, [value], [exercise.answer(arguments)]):
            asked = ", ".join(map(repr, arguments))
            case = f"of ({asked}): " if len(asked) <= SHOWN else ""
            return "failed", mistake(exercise, cases, values) or case + found
    return "passed", ""


def is_empty(value: Any) -> bool:
    r"""Whether a function that was not filled in returns this."""
    return value is None or value is ...


def stopped_with(error: Exception) -> str:
    r"""What a student is told of an error in the answer."""
    return f"it stopped with {_one_line(error)}"


def _tell_apart(exercise: Exercise, cases: Sequence[Arguments], answers: Sequence[Any]) -> bool:
    r"""Whether every mutant fails one of these cases, and is found by its own values alone."""
    before: list[list[Any]] = []
    for wrong in exercise.mutants.values():
        values = [_value(wrong, arguments) for arguments in cases]
        if _agree(exercise, values, answers):
            return False
        ran = [i for i, value in enumerate(values) if value is not _STOPPED]
        for other in before:
            before_it = [_as_number(other[i], answers[i]) for i in ran]
            if _agree(exercise, [values[i] for i in ran], before_it):
                return False
        before.append(values)
    return True


#: What stands for the value of a mutant that does not run on a case.
_STOPPED = object()


def _value(wrong: Callable[..., Any], arguments: Arguments) -> Any:
    try:
        return wrong(*copy.deepcopy(arguments))
    except Exception:
        return _STOPPED


def _agree(exercise: Exercise, given: Sequence[Any], expected: Iterable[Any]) -> bool:
    try:
        return bool(given) and _first_difference(exercise, given, expected) is None
    except Exception:  # _STOPPED, and what else cannot be compared
        return False


def _as_number(value: Any, answer: Any) -> Any:
    r"""A tensor of one entry as a number, where the right answer has a number."""
    if isinstance(answer, tuple) and isinstance(value, tuple) and len(value) == len(answer):
        return tuple(map(_as_number, value, answer))
    if isinstance(answer, (int, float)) and isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    return value


def _first_difference(exercise: Exercise, given: Sequence[Any], expected: Iterable[Any]) -> str | None:
    same = exercise.comparison().difference
    for one, other in zip(given, expected, strict=True):
        found = same(one, other)
        if found is not None:
            return found
    return None


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
