r"""What `fit` minimises: the model's own loss, or an objective given in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from coursekit.errors import CourseError

#: (model, batch) -> the loss to minimise, or that and what else to note of the step by name, all of them scalars.
Objective = Callable[[nn.Module, dict[str, Tensor]], Tensor | tuple[Tensor, dict[str, Tensor]]]


def own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    r"""The model's own loss on a batch."""
    return _scalar(model(**batch).loss, "the loss of this model")


def loss_and_notes(
    objective: Objective | None, model: nn.Module, batch: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""What the backward pass starts from, and what else the objective has to say about the batch."""
    if objective is None:
        return own_loss(model, batch), {}
    found = objective(model, batch)
    loss, notes = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
    return _scalar(loss, "what an objective returns"), notes


def _scalar(loss: Any, what: str) -> Tensor:
    if not isinstance(loss, Tensor) or loss.dim() != 0 or not loss.requires_grad:
        shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
        detached = ", detached from the model" if isinstance(loss, Tensor) and not loss.requires_grad else ""
        raise CourseError(
            f"{what} must be one number that depends on what trains; got a {type(loss).__name__}{shape}{detached}."
        )
    return loss
