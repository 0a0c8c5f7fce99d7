r"""Exercises with a budget: the student's function trains, and the tensors that it returns are scored.

What it reports of itself is worth nothing: whoever judges puts the tensors into a model of his own, and measures that
on data of which the function was given the inputs at most.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from coursekit.checks.core import Arguments, Mutant, Posed, is_empty, stopped_with
from coursekit.checks.draw import Draw


@dataclass(frozen=True)
class Budget:
    r"""What one training may use: minutes by the clock, a model of the course for reading, bytes of its tensors."""

    minutes: float
    model: str
    most: int = 8 * 2**20

    @property
    def seconds(self) -> float:
        r"""The minutes, in seconds."""
        return 60 * self.minutes


@dataclass(frozen=True)
class Scored:
    r"""share: of the points, 0 to 1. measured: what was measured, for the gradebook. message: what is to be said."""

    share: float
    message: str = ""
    measured: float | None = None


@dataclass(frozen=True)
class Posing:
    r"""One training: what the function is given, and what its tensors are measured on, which it never sees."""

    arguments: Arguments
    kept: Any


@dataclass(frozen=True)
class Training(Posed):
    r"""`pose(draw)` draws a training; `score(posing, tensors)` measures what came out.

    A model among the arguments is a function without arguments that loads it, so that a question stays small.
    mutants: trainings that go wrong in a way that can be seen from their tensors.
    """

    budget: Budget
    pose: Callable[[Draw], Posing]
    score: Callable[[Posing, dict[str, Tensor]], Scored]
    mutants: tuple[Mutant, ...]

    def posing(self, secret: bytes) -> Posing:
        r"""The same for the same secret."""
        return self.pose(Draw(secret, self.id))

    def scored(self, posing: Posing, value: Any) -> Scored:
        r"""Points for whatever a function returned. Never raises, and runs nothing of the student's."""
        if type(value) is not dict or not value or {type(k) for k in value} != {str}:
            return Scored(0.0, "it must return a dictionary: the names of the tensors, and the tensors")
        if any(type(v) is not Tensor for v in value.values()):
            return Scored(0.0, "every value of the dictionary that it returns must be a tensor")
        if sum(v.numel() * v.element_size() for v in value.values()) > self.budget.most:
            return Scored(0.0, "its tensors are larger than all that can be trained here")
        try:
            return self.score(posing, value)
        except Exception as error:
            return Scored(0.0, f"its tensors cannot be measured ({type(error).__name__})")

    def looked_at(self, answer: Callable[..., Any], variant: int) -> tuple[str, str]:
        r"""As in Posed; one training, on data that all may know."""
        posing = self.posing(b"public")
        try:
            value = answer(*copy.deepcopy(posing.arguments))
        except Exception as error:
            return "failed", stopped_with(error)
        if is_empty(value):
            return "not attempted", f"fill in {self.name} and run this cell again"
        scored = self.scored(posing, plain(value))
        return ("passed" if scored.share == 1.0 else "failed"), scored.message


def plain(value: Any) -> Any:
    r"""A dictionary's parameters as tensors that need no gradient, as they leave a box; all else as it is."""
    if type(value) is not dict:
        return value
    return {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in value.items()}
