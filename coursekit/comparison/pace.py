r"""How long a training step takes, as a ratio: clocks drift and machines are shared, and both sides share that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.modes import in_mode
from coursekit.training.model_modes import no_key_value_cache
from coursekit.training.optimizers import make_optimizer
from coursekit.training.precision import half_precision, master_weights


@contextmanager
def as_in_training(model: nn.Module) -> Iterator[None]:
    r"""Modes and precisions that `fit` trains in, for the length of a `with`."""
    precision = _precision(model)  # before master weights hide what the model is in
    with _modes(model), precision:
        yield


@contextmanager
def _modes(model: nn.Module) -> Iterator[None]:
    r"""Modes and master weights: they belong to the model. Its precision belongs to the whole process."""
    with ExitStack() as stack:
        stack.enter_context(in_mode(model, training=True))
        stack.enter_context(no_key_value_cache(model))
        stack.enter_context(master_weights([p for p in model.parameters() if p.requires_grad]))
        yield


def _precision(model: nn.Module) -> AbstractContextManager[Any]:
    r"""What `fit` computes this model's forward pass in."""
    trained = [p for p in model.parameters() if p.requires_grad]
    half = half_precision(model, trained)
    # Off where the model does without: another model's must not be in force.
    return torch.autocast(trained[0].device.type, half, enabled=half is not None)


def ratios(model: nn.Module, reference: nn.Module, batch: dict[str, Tensor], rounds: int) -> list[float]:
    r"""Time of a step of `model` / time of one of `reference`, once for each round; who goes first alternates.

    Steps at a learning rate of 0: both models stay as they are.
    """
    precisions = [_precision(m) for m in (model, reference)]
    with _modes(model), _modes(reference):
        ours, theirs = (_stepper(m, batch, p) for m, p in zip((model, reference), precisions, strict=True))
        ours(), theirs()  # warmed up: allocator, lazy optimizer state
        found = []
        for i in range(rounds):
            took = {step: step() for step in ((ours, theirs) if i % 2 == 0 else (theirs, ours))}
            found.append(took[ours] / took[theirs])
    return found


def _stepper(
    model: nn.Module, batch: dict[str, Tensor], precision: AbstractContextManager[Any]
) -> Callable[[], float]:
    r"""A function that makes one training step, as `fit` does, and says how many seconds it took."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer("adamw", trained, 0.0, 0.0)

    def step() -> float:
        if trained[0].is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        with precision:
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
        if trained[0].is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return step
