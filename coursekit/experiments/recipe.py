r"""What is to be run, declared: a method with its settings, how one run trains, the arms of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coursekit.errors import CourseError, whole
from coursekit.experiments.table import Run, state

if TYPE_CHECKING:  # who reads runs needs none of what made them
    from torch import nn

    from coursekit.experiments.bench import Bench
    from coursekit.methods.mechanism.method import Method

#: Learning rates of a search: 1 and 3 in each power of ten, a factor of about √10 apart.
LADDER = tuple(float(f"{digit}e{power}") for power in range(-6, 1) for digit in (1, 3))

#: The method, a fresh model, the task and the run's seed -> the model with the method on it.
Attach = Callable[["Method", "nn.Module", "Bench", int], "nn.Module"]
#: A trained model, the bench, the run's seed -> the state in which it is to be asked, for the length of a `with`.
State = Callable[["nn.Module", "Bench", int], AbstractContextManager[object]]


def alone(method: Method, model: nn.Module, bench: Bench, seed: int) -> nn.Module:
    r"""Attach what needs no look at the task."""
    return method.attach(model)


def on_codes(method: Method, model: nn.Module, bench: Bench, seed: int) -> nn.Module:
    r"""Attach beside weights in 4 bits."""
    from coursekit.qlora import quantize_model

    return method.attach(quantize_model(model))


@dataclass(frozen=True)
class Candidate:
    r"""A method in an experiment.

    family: baseline, additive, selective, reparameterised or hybrid. rate: learning rate where none is searched for.
    attach: how it gets onto the model. keep: arguments of `save` for what a trained task needs, and no more.
    """

    family: str
    method: Method
    rate: float
    attach: Attach = alone
    keep: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> str:
        r"""The method with its hyperparameters; a base in 4 bits is one of them."""
        return f"{self.method!r}{' on NF4' if self.quantized else ''}"

    @property
    def quantized(self) -> bool:
        r"""Whether the base is in 4 bits."""
        return self.attach is on_codes


@dataclass(frozen=True)
class Recipe:
    r"""What one run trains, and how; a learning rate, steps and a seed make it a run.

    batch_size: rows of a step, the setting's where None. examples: training sentences, drawn by the seed; all where
    None. bucket: batches by length, as in `training.fit`. autocast: matrix products in bfloat16, weights in float32.
    also: states in which the trained model is tested as well, by name. They follow each other on the same model.
    """

    candidate: Candidate
    batch_size: int | None = None
    examples: int | None = None
    bucket: bool = True
    autocast: bool = True
    also: Mapping[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    r"""One line of an experiment: a name of its own, and what it trains.

    rates: where the search for the learning rate begins, neighbours on `LADDER`; a single one is taken as it is.
    grows: whether the search goes on where the best lies at an end. steps, doublings, seeds: where other than the
    grid's. like: the arm whose rate this one takes, in the place of rates.
    """

    name: str
    recipe: Any
    rates: tuple[float, ...]
    steps: int | None = None
    doublings: int | None = None
    grows: bool = True
    seeds: tuple[int, ...] | None = None
    like: str | None = None

    def __post_init__(self) -> None:
        if self.like is not None:
            return
        searching = self.grows and len(self.rates) > 1
        if not self.rates or (searching and not (set(self.rates) <= {*LADDER} and len(set(self.rates)) > 2)):
            raise CourseError(
                f"{self.name}: rates must be three or more different ones of 1 and 3 times a power of ten, such as "
                f"(0.001, 0.003, 0.01), or a single one; got {self.rates}."
            )


@dataclass(frozen=True)
class Grid:
    r"""One experiment, and one file.

    reference: the arm that all are paired with. seeds: of the search. best_seeds: how many run at the chosen rate.
    steps, doublings: of a run, and how often they are doubled as long as that brings something. points: of the
    validation curve, at equal distances. judge: a run -> what is to be high on validation data; None where it failed.
    judged_by: the same in words, for the card.
    behind: a rate so far behind the best with the first seed gets no others, unless it is its neighbour.
    """

    topic: str
    arms: tuple[Arm, ...]
    reference: str
    seeds: tuple[int, ...] = (0, 1, 2)
    best_seeds: int = 3
    steps: int = 300
    doublings: int = 0
    points: int = 6
    judge: Callable[[Run], float | None] = lambda run: run.validation
    judged_by: str = "the mean validation accuracy"
    behind: float = 0.03

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        for name in names:
            if names.count(name) > 1:
                raise CourseError(f"two arms of {self.topic} are called {name!r}: give each a name of its own")
            if of := next((other for other in names if name.startswith(state(other, ""))), None):
                raise CourseError(f'{name!r} reads as a state of {of!r}: call it something without "{state(of, "")}"')
        if self.reference not in names:
            raise CourseError(f"{self.topic} has no arm {self.reference!r} to compare with; arms: {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise CourseError(f"seeds must be different ones, such as (0, 1, 2); got {self.seeds}.")
        for steps in (self.steps, *(arm.steps for arm in self.arms if arm.steps is not None)):
            whole("steps", steps, least=0, such_as=300)

    def every(self, steps: int) -> int:
        r"""Steps between two points of the curve of a run of so many."""
        return -(-steps // self.points)

    def arm(self, name: str) -> Arm:
        r"""The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)


def neighbours(rate: float) -> tuple[float, ...]:
    r"""`rate`, which is on the ladder, between its neighbours there."""
    at = LADDER.index(rate)
    return LADDER[max(0, at - 1) : at + 2]
