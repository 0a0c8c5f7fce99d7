r"""What is to be measured, declared: arms of one experiment, the rates to search, the seeds, how long to train."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from coursekit.comparison.rates import GRID
from coursekit.errors import CourseError, whole


@dataclass(frozen=True)
class Arm:
    r"""One line of the experiment: a method with its settings.

    name: unique in the grid. make: what the worker trains, handed on as it is. rates: learning rates to begin the
    search with, three neighbours or more of `rates.GRID`. of: what the arm has in common with others, such as
    {"method": "lora", "r": 8}, for tables and pictures. steps, doublings: where other than the grid's.
    """

    name: str
    make: Any
    rates: tuple[float, ...]
    of: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    doublings: int | None = None

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

    steps, doublings: of a run, and how often they are doubled as long as that brings something. points: of the
    validation curve, at equal distances. reference: the arm that all are paired with.
    """

    topic: str
    arms: tuple[Arm, ...]
    reference: str
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 300
    doublings: int = 2
    points: int = 6

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        for name in names:
            if names.count(name) > 1:
                raise CourseError(
                    f"two arms of {self.topic} are called {name!r}: give each a name of its own"
                )
        for name in names:
            if of := next((other for other in names if name.startswith(derived(other, ""))), None):
                raise CourseError(
                    f'{name!r} reads as a state of {of!r}: call it something without "{derived(of, "")}"'
                )
        if self.reference not in names:
            raise CourseError(
                f"{self.topic} has no arm {self.reference!r} to compare with; arms: {', '.join(names)}"
            )
        if len(set(self.seeds)) < 3:
            raise CourseError(
                f"seeds must be three or more different ones, such as (0, 1, 2); got {self.seeds}."
            )
        whole("points", self.points, least=3, such_as=6)
        for steps in (self.steps, *(arm.steps for arm in self.arms if arm.steps is not None)):
            whole("steps", steps, least=self.points, such_as=300)
        for doublings in (self.doublings, *(a.doublings for a in self.arms if a.doublings is not None)):
            whole("doublings", doublings, least=0, such_as=2)

    def every(self, steps: int) -> int:
        r"""Steps between two points of the curve of a run of so many."""
        return -(-steps // self.points)

    def doublings_of(self, arm: Arm) -> int:
        r"""How often the steps of `arm` are doubled at most."""
        return self.doublings if arm.doublings is None else arm.doublings

    def arm(self, name: str) -> Arm:
        r"""The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)


def derived(arm: str, state: str) -> str:
    r"""The name of what `arm` trained, tested in another state."""
    return f"{arm}, {state}"


def few(arm: str, n: int) -> str:
    r"""The name of `arm` where it trains on `n` sentences only, which the seed draws: the same ones for every arm."""
    return f"{arm} with {n} examples"


def drawn(arm: str) -> int | None:
    r"""How many training sentences the seed draws for `arm`; None where it trains on all."""
    found = re.search(r" with (\d+) examples$", arm)
    return int(found[1]) if found else None
