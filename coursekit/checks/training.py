r"""Exercises with a budget: the student's function trains, and the tensors that it returns are scored.

What it reports of itself is worth nothing: whoever judges puts the tensors into a model of his own, and measures that
on data of which the function was given the inputs at most.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coursekit.checks.core import (
    SEEDS,
    TRIES,
    Arguments,
    BaseExercise,
    Exercise,
    check,
    every_kind,
    is_empty,
    stopped_with,
)
from coursekit.checks.draw import Draw
from coursekit.errors import CourseError, one_of, whole

#: The secret of the notebook's check, which is none.
PUBLIC = b"public"
#: Bytes of what a training may return.
MOST = 8 * 2**20
#: Seconds until whoever waits for a check is told that the answer trains.
PATIENCE = 5.0
#: What a notebook's checks measured last: by exercise, the function and what it returned.
_LATEST: dict[str, tuple[Callable[..., Any], Any]] = {}


@dataclass(frozen=True)
class TrainingScore:
    r"""share: of the points, 0 to 1. measured: what was measured, for the gradebook. message: what is to be said."""

    share: float
    message: str = ""
    measured: float | None = None


@dataclass(frozen=True)
class TrainingCase:
    r"""One training: what the function is given, and what its tensors are measured on, which it never sees."""

    arguments: Arguments
    kept: Any


@dataclass(frozen=True)
class Training(BaseExercise):
    r"""`pose(draw)` draws a training; `score(posing, tensors)` measures what came out.

    A model among the arguments is a function without arguments that loads it, so that a question stays small.
    seconds: what it may take, by the clock. score: a text where there are no points. mutants: by what is said of them,
    trainings that go wrong in a way that can be seen from their tensors. reached: what one who passes is told of
    `measured`. fair: a right one that is shorter than what is asked for.
    """

    seconds: float
    pose: Callable[[Draw], TrainingCase]
    score: Callable[[TrainingCase, dict[str, Tensor]], TrainingScore | str]
    mutants: dict[str, Callable[..., Any]]
    reached: str
    fair: Callable[..., Any] | None = None

    def posing(self, secret: bytes) -> TrainingCase:
        r"""The same for the same secret. Drawn anew until what `fair` trains gets all points: one draw is harder than
        another, and nobody shall lose points to a batch's secret.
        """
        for attempt in range(TRIES):
            posing = self.pose(Draw(secret, f"{self.id}/{attempt}" if attempt else self.id))
            if self.fair is None or secret == PUBLIC:
                return posing
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                value = self.fair(*copy.deepcopy(posing.arguments))
            if self.scored(posing, plain(value)).share == 1.0:
                return posing
        raise CourseError(f"{self.id}: no draw of {TRIES} is easy enough.")

    def scored(self, posing: TrainingCase, value: Any) -> TrainingScore:
        r"""Points for whatever a function returned. Never raises, and runs nothing of the student's."""
        if type(value) is not dict or not value or {type(k) for k in value} != {str}:
            return TrainingScore(0.0, "it must return a dictionary: the names of the tensors, and the tensors")
        if any(type(v) is not Tensor for v in value.values()):
            return TrainingScore(0.0, "every value of the dictionary that it returns must be a tensor")
        if sum(v.numel() * v.element_size() for v in value.values()) > MOST:
            return TrainingScore(0.0, "its tensors are larger than all that can be trained here")
        try:
            unfit = next((f"{name[:60]} {why}" for name, v in value.items() if (why := _unfit(v))), None)
            found = unfit or self.score(posing, value)
            return TrainingScore(0.0, found) if isinstance(found, str) else found
        except Exception as error:
            return TrainingScore(0.0, f"its tensors cannot be measured ({type(error).__name__})")

    def looked_at(self, answer: Callable[..., Any], variant: int) -> tuple[str, str, float]:
        r"""As in BaseExercise; one training, on data that all may know."""
        posing = self.posing(PUBLIC)
        limit = f"{self.seconds / 60:g} minute" + "s" * (self.seconds != 60)
        told = f"{self.name} is training. A graded run is stopped after {limit}."
        waiting = threading.Timer(PATIENCE, print, [told])
        waiting.start()
        try:
            value = answer(*copy.deepcopy(posing.arguments))
        except Exception as error:
            return "failed", stopped_with(error), 0.0
        finally:
            waiting.cancel()
        if is_empty(value):
            return "not attempted", f"fill in {self.name} and run this cell again", 0.0
        value = plain(value)
        scored = self.scored(posing, value)
        if scored.measured is not None:
            _LATEST[self.id] = (answer, value)
        if scored.share == 1.0:
            return "passed", "" if scored.measured is None else self.reached.format(scored.measured), scored.share
        return "failed", scored.message, scored.share


def _unfit(tensor: Tensor) -> str | None:
    if not tensor.is_floating_point():
        return f"must hold floating-point numbers, and holds {str(tensor.dtype).removeprefix('torch.')}"
    return None if tensor.isfinite().all() else "holds NaN or infinity: try a smaller learning rate"


def practice(id: str, case: int = 0) -> Arguments:
    r"""What the notebook's check of exercise `id` calls the student's function with, for trying things outside it.

    case: which of its questions; of an exercise that trains there is one.
    """
    kinds = {name: one for name, one in every_kind().items() if isinstance(one, Training | Exercise)}
    one_of("exercise", id, kinds)
    questions = public_questions(kinds[id])
    return questions[whole("case", case, least=0, most=len(questions) - 1)]


def public_questions(one: BaseExercise) -> list[Arguments]:
    r"""All that `practice` gives of an exercise, in copies; where the notebook shows its cases, two more than its check
    asks.
    """
    if isinstance(one, Training):
        return [copy.deepcopy(one.posing(PUBLIC).arguments)]
    if isinstance(one, Exercise) and one.inputs:
        return [one.inputs(seed) for seed in range(len(SEEDS) + 2)]
    return copy.deepcopy(one.public) if isinstance(one, Exercise) else []


def yours(id: str, answer: Callable[..., Any], part: Any = None) -> Any:
    r"""`answer` where it passes the check of exercise `id`, else the course's own, and a line that says which.

    What a notebook goes on with: the student's own code, as soon as it is right. part: what the student wrote, where
    `answer` is only how the check looks at it; then this, or the exercise's part.
    """
    passed = check(id, answer).status == "passed"
    print(f"{id}: this cell runs {'yours' if passed else 'the course’s, until yours passes its check'}")
    if passed:
        return answer if part is None else part
    own = every_kind()[id]
    if isinstance(own, Training):  # what shows that its draw is fair
        return own.fair
    return own.reference if part is None else own.part


def latest(id: str, answer: Callable[..., Any]) -> Any:
    r"""What `answer` returned to the last check of exercise `id`, so that nothing trains twice; None where the check
    has not run with it, or could not measure what it returned.
    """
    checked, value = _LATEST.get(id, (None, None))
    return value if checked is answer else None


def fitted(
    tensors: dict[str, Tensor], loss: Callable[[int], Tensor], steps: int, lr: float, falling: bool = False
) -> dict[str, Tensor]:
    r"""`tensors` after `steps` steps of Adam on `loss(step)`, in place: for mistakes, and for what is fair."""
    optimizer = torch.optim.Adam([tensor.requires_grad_() for tensor in tensors.values()], lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - falling * step / steps)
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in tensors.items()}


def plain(value: Any) -> Any:
    r"""A dictionary's parameters as tensors that need no gradient, as they leave a box; all else as it is."""
    if type(value) is not dict:
        return value
    return {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in value.items()}
