r"""Exercises as data, and the check that a student runs on an answer.

A check never raises and never ends a notebook: it says not attempted, failed with the likely mistake, or passed.
Each exercise knows wrong answers by name (mutants): whoever makes one of those mistakes is told which.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coursekit.checks.compare import difference
from coursekit.errors import CourseError, unknown

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Mutant:
    r"""A wrong answer that people give, and what to tell them."""

    function: Callable[..., Any]
    message: str


@dataclass(frozen=True)
class Exercise:
    r"""One exercise. `inputs(seed)` gives the arguments; `difficulty` is 1 (a line) to 5 (think first)."""

    id: str
    points: int
    difficulty: int
    minutes: int
    hints: tuple[str, ...]
    inputs: Callable[[int], tuple[Any, ...]]
    reference: Callable[..., Any]
    mutants: tuple[Mutant, ...]
    tolerance: float = 1e-5

    @property
    def name(self) -> str:
        r"""Name of the function that the student writes: `lora.forward` -> `lora_forward`."""
        return self.id.replace(".", "_")


@dataclass(frozen=True)
class Result:
    r"""What a check found: `status` is "passed", "failed" or "not attempted"."""

    id: str
    status: str
    message: str
    points: int = 0
    possible: int = 0

    def __repr__(self) -> str:
        mark = {"passed": "✓", "failed": "✗"}.get(self.status, "○")
        return f"{mark} {self.id}: {self.status} ({self.points}/{self.possible} points). {self.message}"


_EXERCISES: dict[str, Exercise] = {}


def register(exercise: Exercise) -> Exercise:
    r"""Make `exercise` known under its id."""
    if exercise.id in _EXERCISES:
        raise CourseError(f"two exercises are called {exercise.id!r}")
    _EXERCISES[exercise.id] = exercise
    return exercise


def exercises() -> dict[str, Exercise]:
    r"""Every exercise of the course, by id."""
    package = importlib.import_module("coursekit.checks")
    for module in pkgutil.iter_modules(package.__path__):  # importing them registers their exercises
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(_EXERCISES)


def check(id: str, answer: Callable[..., Any]) -> Result:
    r"""Try `answer` on the exercise's inputs and say how it went. Never raises."""
    try:
        known = exercises()
        if id not in known:
            return Result(str(id), "failed", str(unknown("exercise", id, known)))
        return _check(known[id], answer)
    except Exception as error:  # whatever a student's object does when it is looked at
        return Result(str(id), "failed", f"the answer could not be looked at: {_one_line(error)}")


def hint(id: str, number: int = 1) -> str:
    r"""Hint `number` (from 1) of exercise `id`."""
    known = exercises()
    if id not in known:
        raise unknown("exercise", id, known)
    hints = known[id].hints
    if not 1 <= number <= len(hints):
        raise CourseError(f"{id} has {len(hints)} hints: take a number from 1 to {len(hints)}")
    return f"{number} of {len(hints)}: {hints[number - 1]}"


def _check(exercise: Exercise, answer: Callable[..., Any]) -> Result:
    def result(status: str, message: str) -> Result:
        points = exercise.points if status == "passed" else 0
        return Result(exercise.id, status, message, points, exercise.points)

    if not callable(answer):
        return result(
            "failed", f"pass the function itself: check({exercise.id!r}, {exercise.name}), without brackets"
        )
    given, expected, empty = [], [], 0
    for seed in SEEDS:
        arguments = exercise.inputs(seed)
        try:
            value = answer(*copy.deepcopy(arguments))  # a copy: an answer may change what it is given
        except Exception as error:
            # What it answered before may show the mistake that the error comes from.
            wrong = _first_difference(given, expected, exercise.tolerance) and _mistake(exercise, given)
            stopped = f"it stopped with {_one_line(error)}"
            return result("failed", f"{wrong} (and then {stopped})" if wrong else stopped)
        empty += value is None or value is ...
        given.append(value)
        expected.append(exercise.reference(*copy.deepcopy(arguments)))
    if empty == len(SEEDS):
        return result("not attempted", f"fill in {exercise.name} and run this cell again")
    if empty:
        return result(
            "failed", "it returns nothing for some inputs: every way through the function needs a return"
        )
    found = _first_difference(given, expected, exercise.tolerance)
    if found is None:
        return result("passed", "")
    return result("failed", _mistake(exercise, given) or found)


def _mistake(exercise: Exercise, given: list[Any]) -> str | None:
    r"""The message of the mutant that answers the same as was `given` for as many inputs; None for none of them."""
    for mutant in exercise.mutants if given else ():
        try:
            wrong = [mutant.function(*exercise.inputs(seed)) for seed in SEEDS[: len(given)]]
        except Exception:  # a mistake that does not run on these inputs is not the one that was made
            continue
        if _first_difference(given, wrong, exercise.tolerance) is None:
            return mutant.message
    return None


def _first_difference(given: list[Any], expected: list[Any], tolerance: float) -> str | None:
    for one, other in zip(given, expected, strict=True):
        found = difference(one, other, tolerance)
        if found is not None:
            return found
    return None


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
