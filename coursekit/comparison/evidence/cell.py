r"""One cell of a grid: a fresh model, a method, a learning rate, a seed; validated on the way and tested at the end.

What a trained model can be asked in more than one state, such as with adapters of some blocks skipped or with weights
pruned away, is asked of the same run: each such state is an arm of its own, named after the one that trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from coursekit.comparison.bench import Bench
from coursekit.comparison.candidates import Candidate
from coursekit.comparison.evidence.grid import derived
from coursekit.comparison.evidence.plan import Cell, Run
from coursekit.comparison.trial import attach
from coursekit.errors import CourseError
from coursekit.evaluation import accuracy
from coursekit.methods import trainable

#: A trained model, the bench, the run's seed -> the state in which it is to be asked, for the length of a `with`.
State = Callable[[nn.Module, Bench, int], AbstractContextManager[object]]


@dataclass(frozen=True)
class Recipe:
    r"""What an arm trains, and how.

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


class _Enough(Exception):
    r"""The run has gone as far as was asked."""


def train(bench: Bench, recipe: Recipe, cell: Cell, every: int, until: int | None = None) -> list[Run]:
    r"""Train as `recipe` and `cell` say: the run, and one more for each state that is asked as well. A loss that stops
    being finite is a run as well, with the reason.

    every: steps between two looks at the validation sentences. The test sentences are answered once, at the end.
    until: stop at that look, with nothing tested: how the run begins.
    """
    start = time.perf_counter()
    model = attach(bench, recipe.candidate, cell.seed)
    curve: list[tuple[int, float]] = []

    def answers(split: str) -> list[bool]:
        score = accuracy(model, bench.prepared, split, bench.sentences(split), progress=False)
        return score.correct.tolist()

    def look(done: int) -> None:
        if done % every == 0 or done == cell.steps:
            right = answers("validation")
            curve.append((done, sum(right) / len(right)))
            if done == until:
                raise _Enough

    parameters = trainable(model)
    with autocast(bench.device.type, recipe.autocast):
        try:
            bench.fit(
                model, cell.seed, cell.rate, cell.steps, batch_size=recipe.batch_size, examples=recipe.examples,
                bucket=recipe.bucket, after_step=look,
            )  # fmt: skip
        except _Enough:
            return [Run(cell, tuple(curve), (), parameters, time.perf_counter() - start)]
        except CourseError as error:
            cells = [cell, *(replace(cell, arm=derived(cell.arm, state)) for state in recipe.also)]
            return [Run(one, (), (), parameters, time.perf_counter() - start, str(error)) for one in cells]
        runs = [Run(cell, tuple(curve), tuple(answers("test")), parameters, time.perf_counter() - start)]
        for name, state in recipe.also.items():
            start = time.perf_counter()
            with state(model, bench, cell.seed):
                right = answers("validation")
                point = ((cell.steps, sum(right) / len(right)),)
                one = replace(cell, arm=derived(cell.arm, name))
                runs.append(
                    Run(one, point, tuple(answers("test")), trainable(model), time.perf_counter() - start)
                )
        return runs


@contextmanager
def autocast(device: str, on: bool) -> Iterator[None]:
    r"""Matrix products in bfloat16 meanwhile, where `on`. Without autocast's cache of cast weights: it lives as long as
    the context, here a whole training, and every step would compute with the weights of the first.
    """
    with torch.autocast(device, torch.bfloat16, enabled=on, cache_enabled=False):
        yield
