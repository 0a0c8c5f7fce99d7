r"""The exercises as the judge uses them."""

from __future__ import annotations

from typing import Any

from coursekit.checks import Exercise, Posed, every_kind
from coursekit.checks.numeric import Numeric
from coursekit.checks.training import Training
from coursekit.errors import unknown


def named(ids: list[str]) -> dict[str, Posed]:
    r"""The exercises of these ids. Raises CourseError for an id that the checks do not know."""
    known = every_kind()
    for id in ids:
        if id not in known:
            raise unknown("exercise", id, known)
    return {id: known[id] for id in ids}


def secret_cases(exercise: Exercise, secret: bytes, n: int) -> list[tuple[Any, ...]]:
    r"""`n` cases that only the holder of `secret` can foresee, and at least one of each kind."""
    return exercise.cases(secret, max(n, exercise.kinds))


def trainings(exercises: dict[str, Posed]) -> dict[str, Training]:
    r"""Those with a budget."""
    return {id: e for id, e in exercises.items() if isinstance(e, Training)}


def numeric(exercises: dict[str, Posed]) -> dict[str, Numeric]:
    r"""Those with numbers of one's own."""
    return {id: e for id, e in exercises.items() if isinstance(e, Numeric)}
