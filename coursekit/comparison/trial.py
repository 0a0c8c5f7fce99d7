r"""What a method costs beside its accuracy, measured on the model that a run trains."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coursekit import memory, training
from coursekit.errors import CourseError
from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Candidate
from coursekit.memory import Breakdown, Quantized
from coursekit.methods import trainable
from coursekit.methods.mechanism.modules import head_names
from coursekit.models.hub import quiet
from coursekit.notebook import timing
from coursekit.training.model_modes import half_precision, training_mode
from coursekit.training.optimizers import make_optimizer


@contextmanager
def as_in_training(model: nn.Module) -> Iterator[None]:
    r"""Modes and precisions that `fit` trains in, for the length of a `with`."""
    precision = _precision(model)  # before master weights hide what the model is in
    with training_mode(model, _trained(model)), precision:
        yield


def step_ratio(model: nn.Module, reference: nn.Module, batch: dict[str, Tensor], rounds: int) -> float:
    r"""Time of a step of `model` / time of one of `reference`: the median over rounds, in which they take turns.

    Steps at a learning rate of 0: both models stay as they are.
    """
    precisions = _precision(reference), _precision(model)
    # Modes and master weights belong to a model, its precision to the whole process: in force for its own steps alone.
    with training_mode(reference, _trained(reference)), training_mode(model, _trained(model)):
        theirs, ours = (_stepper(m, batch, p) for m, p in zip((reference, model), precisions, strict=True))
        return timing.ratios({"reference": theirs, "own": ours}, rounds)["own"]


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _precision(model: nn.Module) -> AbstractContextManager[Any]:
    r"""What `fit` computes this model's forward pass in."""
    trained = _trained(model)
    half = half_precision(model, trained)
    # Off where the model does without: another model's must not be in force.
    return torch.autocast(trained[0].device.type, half, enabled=half is not None)


def _stepper(model: nn.Module, batch: dict[str, Tensor], precision: AbstractContextManager[Any]) -> Callable[[], None]:
    r"""A function that makes one training step, as `fit` does."""
    trained = _trained(model)
    optimizer = make_optimizer("adamw", trained, 0.0, 0.0)

    def step() -> None:
        with precision:
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device

    return step


#: Rounds in which a step of the method and one of full fine-tuning take turns; even, so that each goes first as often.
ROUNDS = 4


def costs(bench: Bench, candidate: Candidate, model: nn.Module, history: training.History | None) -> dict[str, Any]:
    r"""Before training (history None) and after it.

    trained, head: parameters of the method, by count and by its closed form, and of the task head. Then bytes by
    category of one step on `bench.batch`, measured, and the peak by `memory.predict` where that knows the method.
    storage_bytes: of all that `save` writes for a trained task. step_seconds: median over the steps but the first.
    step_ratio: of a step's time to that of a step of full fine-tuning, median over rounds in which they took turns.
    """
    if history is not None:
        return {
            "storage_bytes": _stored(candidate, model),
            "step_seconds": statistics.median(history.seconds[1:] or history.seconds),
            "step_ratio": step_ratio(model, bench.reference, bench.batch, ROUNDS),
            "majority": bench.majority,
        }
    head = sum(trainable(model.get_submodule(name)) for name in head_names(model))
    trained, expected = trainable(model) - head, candidate.method.count(model.config)
    assert trained == expected, f"{candidate.settings} trains {trained} parameters, its closed form says {expected}"
    with as_in_training(model):
        measured = memory.measure(model, bench.batch)
    predicted = _predicted(bench, candidate, model)
    return (
        {"trained": trained, "head": head}
        | dict(measured.rows())
        | {"peak": measured.peak, "predicted_peak": "" if predicted is None else predicted.peak}
    )


def _stored(candidate: Candidate, model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder, quiet():  # no bar for one file
        candidate.method.save(model, folder, **candidate.keep)
        return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def _predicted(bench: Bench, candidate: Candidate, model: nn.Module) -> Breakdown | None:
    r"""By the config alone. None where the memory model does not know the method, and on a base in 16 bits, where
    `fit` keeps copies in fp32 that it does not know either.
    """
    if bench.dtype.itemsize < 4:
        return None
    mask = bench.batch["attention_mask"]
    rows, seq = mask.shape
    try:
        return memory.predict(
            model.config, candidate.method, batch=rows, seq=seq, attention=model.config._attn_implementation,
            padded=not mask.all(), device=bench.device.type, quantized=Quantized() if candidate.quantized else None,
        )  # fmt: skip
    except CourseError:
        return None
