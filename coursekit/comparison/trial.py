r"""What a method costs beside its accuracy, measured on the model that a run trains."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from coursekit import memory, training
from coursekit.comparison.pace import as_in_training, step_ratio
from coursekit.errors import CourseError
from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Candidate
from coursekit.memory import Breakdown, Quantized
from coursekit.methods import trainable
from coursekit.methods.mechanism.modules import head_names
from coursekit.models.hub import quiet

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
