r"""One cell of a grid: a fresh model, a method, a learning rate, a seed; validated on the way and tested at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from coursekit.comparison.bench import Bench
from coursekit.comparison.candidates import Candidate
from coursekit.comparison.evidence.plan import Cell, Run
from coursekit.comparison.trial import attach
from coursekit.errors import CourseError
from coursekit.evaluation import accuracy
from coursekit.methods import trainable


@dataclass(frozen=True)
class Recipe:
    r"""What an arm trains, and how.

    batch_size: rows of a step, the setting's where None. examples: training sentences, drawn by the seed; all where
    None. bucket: batches by length, as in `training.fit`. autocast: matrix products in bfloat16, weights in float32.
    """

    candidate: Candidate
    batch_size: int | None = None
    examples: int | None = None
    bucket: bool = True
    autocast: bool = True


class _Enough(Exception):
    r"""The run has gone as far as was asked."""


def train(bench: Bench, recipe: Recipe, cell: Cell, every: int, until: int | None = None) -> Run:
    r"""Train as `recipe` and `cell` say. A loss that stops being finite is a run as well, with the reason.

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
            return Run(cell, tuple(curve), (), parameters, time.perf_counter() - start)
        except CourseError as error:
            return Run(cell, (), (), parameters, time.perf_counter() - start, str(error))
        return Run(cell, tuple(curve), tuple(answers("test")), parameters, time.perf_counter() - start)


@contextmanager
def autocast(device: str, on: bool) -> Iterator[None]:
    r"""Matrix products in bfloat16 meanwhile, where `on`. Without autocast's cache of cast weights: it lives as long as
    the context, here a whole training, and every step would compute with the weights of the first.
    """
    with torch.autocast(device, torch.bfloat16, enabled=on, cache_enabled=False):
        yield
