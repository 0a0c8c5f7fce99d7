r"""One run: a fresh model, a method, a learning rate, a seed; validated on the way and tested once, at the end.

What a trained model can be asked in more than one state, such as with adapters of some blocks skipped or with weights
pruned away, is asked of the same run: each such state is an arm of its own, named after the one that trained.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from coursekit import training
from coursekit.autocast import bfloat16_products
from coursekit.errors import CourseError
from coursekit.evaluation.classification import class_logits
from coursekit.experiments import machine
from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Candidate, Recipe
from coursekit.experiments.results import CONSTANT, UNTRAINED
from coursekit.experiments.table import Cell, Run, state
from coursekit.methods import trainable
from coursekit.tasks.task import task_of

#: Training sentences that the untrained decoder's threshold is fitted on.
FITTED_ON = 500


class Unfit(CourseError):
    r"""The method and the model do not go together."""


def attach(bench: Bench, candidate: Candidate, seed: int) -> nn.Module:
    r"""A fresh model with the method on it. Raises Unfit where the method does not fit the model."""
    model = bench.model(seed)
    training.seed_everything(seed)  # what the method draws is a function of the run's seed
    try:
        return candidate.attach(candidate.method, model, bench, seed)
    except CourseError as error:
        raise Unfit(str(error)) from error


def train(
    bench: Bench,
    recipe: Recipe,
    cell: Cell,
    every: int,
    *,
    measure: Callable[[nn.Module, training.History | None], Mapping[str, object]] | None = None,
) -> list[Run]:
    r"""Train as `recipe` and `cell` say: the run, and one more for each state that is asked as well. A loss that stops
    being finite is a run as well, with the reason.

    every: steps between two looks at the validation sentences. The test sentences are answered once, at the end.
    measure: asked of the model before it trains (with None) and afterwards; what it says is kept in further columns.
    """
    start = time.perf_counter()
    model = attach(bench, recipe.candidate, cell.seed)
    curve: list[tuple[int, float]] = []
    more: dict[str, object] = {"processor": machine.device_name(bench.device)}
    more |= {} if measure is None else measure(model, None)

    def look(done: int) -> None:
        if done % every == 0 or done == cell.steps:
            right = _answers(bench, model, "validation")[0]
            curve.append((done, sum(right) / len(right)))

    parameters = trainable(model)

    def ended(correct: tuple[bool, ...] = (), why: str = "", **found: object) -> Run:
        kept = {name: str(value) for name, value in more.items()}
        seconds = time.perf_counter() - start
        points = () if why else tuple(curve)
        return Run(cell, points, correct, parameters, seconds, why, more=kept, **found)  # type: ignore[arg-type]

    with autocast(bench.device.type, recipe.autocast):
        try:
            history = bench.fit(
                model, cell.seed, cell.rate, cell.steps, batch_size=recipe.batch_size, examples=recipe.examples,
                bucket=recipe.bucket, after_step=look,
            )  # fmt: skip
        except CourseError as error:
            failed = ended(why=str(error))
            states = (replace(cell, arm=state(cell.arm, name)) for name in recipe.also)
            return [failed, *(replace(failed, cell=one) for one in states)]
        if measure is not None:
            more |= measure(model, history)
        correct, margins = _answers(bench, model, "test")
        late = statistics.fmean(history.loss[-max(1, len(history) // 10) :])
        runs = [ended(correct, margins=margins, loss=late)]
        for name, other in recipe.also.items():
            start = time.perf_counter()
            with other(model, bench, cell.seed):
                right = _answers(bench, model, "validation")[0]
                point = ((cell.steps, sum(right) / len(right)),)
                one, (correct, margins) = state(cell.arm, name), _answers(bench, model, "test")
                seconds = time.perf_counter() - start
                kept = runs[0].more
                runs.append(
                    Run(replace(cell, arm=one), point, correct, trainable(model), seconds, margins=margins, more=kept)
                )
        return runs


def baselines(bench: Bench, there: Collection[str] = (), bf16: bool = True) -> Iterator[Run]:
    r"""What needs no training and is not among the arms `there`: the best constant answer on those sentences, and a
    decoder's own, with its own threshold between two classes and with one fitted on training sentences.
    """
    labels = {
        # The classes, not the "labels" of the rows: a decoder's are tokens.
        split: task_of(bench.prepared).data[split][: bench.sentences(split)]["label"]
        for split in ("validation", "test")
    }
    right = {}
    for split, own in labels.items():
        most = Counter(own).most_common(1)[0][0]
        right[split] = tuple(label == most for label in own)
    if CONSTANT not in there:
        yield _idle(CONSTANT, right["validation"], right["test"])
    fitted_arm = state(UNTRAINED, "fitted threshold")
    if bench.encoder or {UNTRAINED, fitted_arm} <= {*there}:
        return
    start, model = time.perf_counter(), bench.model(0)
    with autocast(bench.device.type, bf16):
        (validation, _), (test, margins) = (_answers(bench, model, split) for split in ("validation", "test"))
        if UNTRAINED not in there:
            yield replace(_idle(UNTRAINED, validation, test), seconds=time.perf_counter() - start, margins=margins)
        if bench.labels != 2:
            return
        fitted = {}
        for split in ("train", "validation", "test"):
            limit = FITTED_ON if split == "train" else bench.sentences(split)
            logits, classes = class_logits(model, bench.prepared, split, limit, progress=False)
            fitted[split] = (logits[:, 1] - logits[:, 0]).numpy(), classes.numpy().astype(bool)
    offset = threshold(*fitted["train"])
    answers = [tuple(((x > offset) == y).tolist()) for x, y in (fitted["validation"], fitted["test"])]
    moved = tuple(float(x - offset) for x in fitted["test"][0])
    yield replace(_idle(fitted_arm, *answers), margins=moved)


def threshold(margins: np.ndarray, labels: np.ndarray) -> float:
    r"""Above which margin to answer with class 1, so that most of these are right: the middle of the best gap."""
    order = np.argsort(margins)
    x, y = margins[order].astype(float), labels[order]
    right = np.concatenate([[0], np.cumsum(~y)]) + np.concatenate([[y.sum()], y.sum() - np.cumsum(y)])
    cuts = np.concatenate([[x[0] - 1], (x[1:] + x[:-1]) / 2, [x[-1] + 1]])
    return float(cuts[right.argmax()])


@contextmanager
def autocast(device: str, on: bool) -> Iterator[None]:
    r"""Matrix products in bfloat16 meanwhile, where `on`. Without autocast's cache of cast weights: it lives as long as
    the context, here a whole training, and every step would compute with the weights of the first.
    """
    with (
        torch.autocast(device, torch.bfloat16, enabled=on, cache_enabled=False),
        bfloat16_products(device) if on else nullcontext(),
    ):
        yield


def _answers(bench: Bench, model: nn.Module, split: str) -> tuple[tuple[bool, ...], tuple[float, ...]]:
    r"""Which sentences are right; and, between two classes, by how much class 1 is ahead."""
    logits, labels = class_logits(model, bench.prepared, split, bench.sentences(split), progress=False)
    margins = (logits[:, 1] - logits[:, 0]).tolist() if logits.shape[1] == 2 else ()
    return tuple((logits.argmax(-1) == labels).tolist()), tuple(margins)


def _idle(arm: str, validation: tuple[bool, ...], test: tuple[bool, ...]) -> Run:
    return Run(Cell(arm, 0, 0.0, 0), ((0, sum(validation) / len(validation)),), test, 0, 0.0)
