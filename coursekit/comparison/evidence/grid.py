r"""What is to be measured, declared: arms of one experiment, the rates to search, the seeds, how long to train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from coursekit.comparison.rates import GRID
from coursekit.errors import CourseError, whole


@dataclass(frozen=True)
class Arm:
    r"""One line of the experiment: a method with its settings.

    name: unique in the grid. make: what the worker trains, handed on as it is. rates: learning rates to begin the
    search with, three neighbours or more of `rates.GRID`. of: what the arm has in common with others, such as
    {"method": "lora", "r": 8}, for tables and pictures.
    """

    name: str
    make: Any
    rates: tuple[float, ...]
    of: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [rate for rate in self.rates if rate not in GRID]
        if wrong or len(set(self.rates)) < 3:
            raise CourseError(
                f"{self.name}: rates must be three or more different ones of 1 and 3 times a power of ten, such as "
                f"(0.001, 0.003, 0.01); got {self.rates}."
            )


@dataclass(frozen=True)
class Grid:
    r"""One experiment, and one file of evidence.

    steps, most_steps: of a run; doubled from the one up to the other while the validation curve still rises.
    every: steps between two points of that curve. reference: the arm that all are paired with.
    """

    topic: str
    arms: tuple[Arm, ...]
    reference: str
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 300
    most_steps: int = 1200
    every: int = 50

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        for name in names:
            if names.count(name) > 1:
                raise CourseError(
                    f"two arms of {self.topic} are called {name!r}: give each a name of its own"
                )
        if self.reference not in names:
            raise CourseError(
                f"{self.topic} has no arm {self.reference!r} to compare with; arms: {', '.join(names)}"
            )
        if len(set(self.seeds)) < 3:
            raise CourseError(
                f"seeds must be three or more different ones, such as (0, 1, 2); got {self.seeds}."
            )
        whole("steps", self.steps, least=2 * whole("every", self.every, least=1, such_as=50), such_as=300)
        whole("most_steps", self.most_steps, least=self.steps)

    def arm(self, name: str) -> Arm:
        r"""The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)
