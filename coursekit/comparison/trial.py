r"""One run: a fresh model, one method, one seed, one learning rate; and everything that is measured on it."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

from coursekit import memory, training
from coursekit.comparison.bench import Bench
from coursekit.comparison.candidates import Candidate
from coursekit.comparison.pace import as_in_training, ratios
from coursekit.errors import CourseError
from coursekit.evaluation.classification import accuracy
from coursekit.memory import Breakdown, Quantized
from coursekit.methods import trainable
from coursekit.methods.mechanism.modules import head_names
from coursekit.models.hub import quiet

#: Rounds in which a step of the method and one of full fine-tuning take turns; even, so that each goes first as often.
ROUNDS = 4


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


def validated(bench: Bench, candidate: Candidate, seed: int, lr: float) -> dict[str, Any]:
    r"""Accuracy on the validation split after training at `lr`; None where the rate was so high that it failed."""
    start, model = time.perf_counter(), attach(bench, candidate, seed)
    try:
        bench.fit(model, seed, lr)
        found = _score(bench, model, "validation")
    except CourseError as error:  # a loss that stopped being finite
        found = {"accuracy": None, "why": str(error)}
    return found | {"wall_seconds": time.perf_counter() - start}


def run(bench: Bench, candidate: Candidate, seed: int, lr: float) -> dict[str, Any]:
    r"""Train and test: what it took and what it reached.

    trained, head: parameters of the method, by count and by its closed form, and of the task head. storage_bytes: of
    all that `save` writes for a trained task. memory, predicted: bytes by category of one step on a batch of so many
    rows and tokens, measured, and by `memory.predict` where that knows the method. step_seconds: median over the steps
    but the first. step_ratio: of a step's time to that of a step of full fine-tuning, median over rounds in which they
    took turns. Where training failed: accuracy None, and why.
    """
    start, model = time.perf_counter(), attach(bench, candidate, seed)
    head = sum(trainable(model.get_submodule(name)) for name in head_names(model))
    trained, expected = trainable(model) - head, candidate.method.count(model.config)
    assert trained == expected, (
        f"{candidate.settings} trains {trained} parameters, its closed form says {expected}"
    )
    with as_in_training(model):
        measured = memory.measure(model, bench.batch)
    sizes = {"trained": trained, "head": head}
    try:
        history = bench.fit(model, seed, lr)
    except CourseError as error:  # a loss that stopped being finite
        return sizes | {"accuracy": None, "why": str(error), "wall_seconds": time.perf_counter() - start}
    return sizes | {
        "storage_bytes": _stored(candidate, model),
        "measured_on": dict(zip(("rows", "tokens"), bench.batch["input_ids"].shape, strict=True)),
        "memory": _bytes(measured),
        "predicted": _predicted(bench, candidate, model),
        "loss": statistics.fmean(history.loss[-max(1, len(history) // 10) :]),
        "step_seconds": statistics.median(history.seconds[1:] or history.seconds),
        "step_ratio": statistics.median(ratios(model, bench.reference, bench.batch, ROUNDS)),
        **_score(bench, model, "test"),
        "majority": bench.majority,
        "wall_seconds": time.perf_counter() - start,
    }


def _score(bench: Bench, model: nn.Module, split: str) -> dict[str, Any]:
    score = accuracy(model, bench.prepared, split, bench.sentences(split), progress=False)
    return {"accuracy": score.value, "n": score.n, "low": score.low, "high": score.high}


def _stored(candidate: Candidate, model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder, quiet():  # no bar for one file
        candidate.method.save(model, folder, **candidate.keep)
        return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def _bytes(breakdown: Breakdown) -> dict[str, int]:
    return dict(breakdown.rows()) | {"peak": breakdown.peak}


def _predicted(bench: Bench, candidate: Candidate, model: nn.Module) -> dict[str, int] | None:
    r"""By the config alone. None where the memory model does not know the method, and on a base in 16 bits, where
    `fit` keeps copies in fp32 that it does not know either.
    """
    if bench.dtype.itemsize < 4:
        return None
    mask = bench.batch["attention_mask"]
    rows, seq = mask.shape
    try:
        predicted = memory.predict(
            model.config, candidate.method, batch=rows, seq=seq, attention=model.config._attn_implementation,
            padded=not mask.all(), device=bench.device.type, quantized=Quantized() if candidate.quantized else None,
        )  # fmt: skip
    except CourseError:
        return None
    return _bytes(predicted)
