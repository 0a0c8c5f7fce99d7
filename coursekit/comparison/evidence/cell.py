r"""One cell of a grid: a fresh model, a method, a learning rate, a seed; validated on the way and tested at the end."""

from __future__ import annotations

import time

from coursekit.comparison.bench import Bench
from coursekit.comparison.candidates import Candidate
from coursekit.comparison.evidence.plan import Cell, Run
from coursekit.comparison.trial import attach
from coursekit.errors import CourseError
from coursekit.evaluation import accuracy
from coursekit.methods import trainable


def train(bench: Bench, candidate: Candidate, cell: Cell, every: int) -> Run:
    r"""Train `candidate` as `cell` says. A loss that stops being finite is a run as well, with the reason.

    every: steps between two looks at the validation sentences. The test sentences are answered once, at the end.
    """
    start, model = time.perf_counter(), attach(bench, candidate, cell.seed)
    curve: list[tuple[int, float]] = []

    def answers(split: str) -> list[bool]:
        score = accuracy(model, bench.prepared, split, bench.sentences(split), progress=False)
        return score.correct.tolist()

    def look(done: int) -> None:
        if done % every == 0 or done == cell.steps:
            right = answers("validation")
            curve.append((done, sum(right) / len(right)))

    parameters = trainable(model)
    try:
        bench.fit(model, cell.seed, cell.rate, cell.steps, after_step=look)
    except CourseError as error:
        return Run(cell, (), (), parameters, time.perf_counter() - start, str(error))
    return Run(cell, tuple(curve), tuple(answers("test")), parameters, time.perf_counter() - start)
