r"""Exercises whose answer is a number, worked out from numbers of one's own: copying somebody else's is no use.

The notebook's parameter `variant` says whose numbers they are; it is 0 where everybody has the same. A grader gives
each student another (`coursekit grade variants`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from coursekit.checks.core import Arguments, BaseExercise, Exercise, every_kind, is_empty, judge, mistake, stopped_with
from coursekit.checks.draw import Draw
from coursekit.errors import one_of, whole


@dataclass(frozen=True)
class Numeric(BaseExercise):
    r"""The student's function takes no arguments. `secret(draw)` draws the numbers called `given`, from which
    `reference` makes the answer, and each mutant a wrong one.
    """

    given: tuple[str, ...]
    secret: Callable[[Draw], Arguments]
    reference: Callable[..., float]
    mutants: dict[str, Callable[..., Any]]
    tolerance: float = 0.0

    @cached_property
    def asks(self) -> Exercise:
        r"""The same as a function of the numbers."""
        described = (self.id, self.points, self.difficulty, self.minutes)
        return Exercise(
            *described, secret=self.secret, reference=self.reference, mutants=self.mutants, tolerance=self.tolerance
        )

    def own(self, variant: int) -> Arguments:
        r"""The numbers of whoever has `variant`; every mistake gives another answer for them."""
        (found,) = self.asks.cases(f"variant {variant}".encode(), 1)
        return found

    def looked_at(self, answer: Callable[..., Any], variant: int) -> tuple[str, str, float]:
        r"""As in BaseExercise."""
        try:
            value = answer()
        except Exception as error:
            return "failed", stopped_with(error), 0.0
        if is_empty(value):
            return "not attempted", f"fill in {self.name} and run this cell again", 0.0
        numbers = self.own(variant)
        found = judge(self.asks, numbers, value)
        if found is None:
            return "passed", "", 1.0
        return "failed", mistake(self.asks, [numbers], [value]) or found, 0.0


def numbers(id: str, variant: int = 0) -> dict[str, Any]:
    r"""The numbers of exercise `id` for whoever has `variant`, the notebook's parameter, by their names.

    Raises CourseError where there is no such exercise, or where `variant` is not an integer of 0 or more.
    """
    known = {i: e for i, e in every_kind().items() if isinstance(e, Numeric)}
    one_of("exercise", id, known)
    return dict(zip(known[id].given, known[id].own(whole("variant", variant, least=0)), strict=True))
