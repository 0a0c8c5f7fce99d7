r"""The exercises as the grader uses them: secret cases, judgement, and the mistake that was made."""

from __future__ import annotations

import copy
import hashlib
import hmac
from typing import Any

from coursekit import checks
from coursekit.checks import Exercise
from coursekit.checks.compare import difference
from coursekit.grading.ids import hyphened


def known() -> dict[str, Exercise]:
    r"""Every exercise of the course by its id, in letters, digits and hyphens."""
    return {hyphened(id): exercise for id, exercise in checks.exercises().items()}


def cases(exercise: Exercise, id: str, secret: bytes, n: int) -> list[tuple[Any, ...]]:
    r"""`n` tuples of arguments that only the holder of `secret` can foresee."""
    own = hmac.new(secret, id.encode(), hashlib.sha256).digest()
    if hasattr(exercise, "cases"):
        return exercise.cases(own, n)
    return [exercise.inputs(seed) for seed in range(min(n, 3))]


def judge(exercise: Exercise, arguments: tuple[Any, ...], value: Any) -> str | None:
    r"""None where `value` is right, else one line."""
    if hasattr(checks, "judge"):
        return checks.judge(exercise, arguments, value)
    return difference(value, exercise.reference(*copy.deepcopy(arguments)), exercise.tolerance)


def mistake(exercise: Exercise, asked: list[tuple[Any, ...]], values: list[Any]) -> str | None:
    r"""The message of the mutant that answers as the student does; None for none of them."""
    if hasattr(checks, "mistake"):
        return checks.mistake(exercise, asked, values)
    for mutant in exercise.mutants if values else ():
        try:
            wrong = [mutant.function(*copy.deepcopy(a)) for a in asked]
            same = [difference(v, w, exercise.tolerance) is None for v, w in zip(values, wrong, strict=True)]
        except Exception:  # a mistake that does not run on these inputs is not the one that was made
            continue
        if all(same):
            return mutant.message
    return None
