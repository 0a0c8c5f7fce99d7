r"""How long a training step takes, as a ratio: clocks drift and machines are shared, and both sides share that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
