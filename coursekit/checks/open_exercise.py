r"""Open exercises: many answers are right, and the course's own answer says how good one has to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coursekit.checks.compare import Comparison
from coursekit.checks.core import Arguments, Exercise

#: (comparison, what is given, the case, the course's own answer) -> None, or what is wrong.
Judge = Callable[["OpenComparison", Any, Arguments, Any], "str | None"]


@dataclass(frozen=True)
class Own:
    r"""What an answer is held against: the case, and the course's own answer to it."""

    case: Arguments
    answer: Any


@dataclass(frozen=True)
class OpenComparison(Comparison):
    r"""Right is whatever `judge` finds good enough beside the course's own answer."""

    judge: Judge = field(kw_only=True)

    def difference(self, given: Any, expected: Any) -> str | None:
        r"""As in Comparison, which also compares plain values here."""
        if not isinstance(expected, Own):
            return super().difference(given, expected)
        given = given.answer if isinstance(given, Own) else given
        return self.judge(self, given, expected.case, expected.answer)

    def exactly(self, numbers: str) -> str:
        r"""`numbers` where values may be written out, else nothing."""
        return "" if self.discreet else numbers


@dataclass(frozen=True)
class OpenExercise(Exercise):
    r"""An exercise with many right answers; `judge` says which."""

    judge: Judge = field(kw_only=True)

    def comparison(self, discreet: bool = False) -> OpenComparison:
        r"""As in Exercise."""
        return OpenComparison(self.tolerance, discreet=discreet, judge=self.judge)

    def answer(self, arguments: Arguments) -> Own:
        r"""As in Exercise."""
        return Own(arguments, super().answer(arguments))
