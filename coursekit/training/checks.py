r"""What must be right before a run begins, and one line for a run that went wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coursekit.errors import CourseError, short
from coursekit.tasks.prepared import Prepared


def check_settings(*, optimizer: Any, objective: Any, checkpoint: Any, after_step: Any) -> None:
    r"""Raise CourseError for a setting of `fit` that is not of its kind. Numbers it checks, and keeps, itself."""
    if checkpoint is not None and not isinstance(checkpoint, str | Path):
        raise CourseError(f"checkpoint must be a folder, or None; got {short(checkpoint)}.")
    if objective is not None and not callable(objective):
        raise CourseError(f"objective must be a function of a model and a batch, or None; got {short(objective)}.")
    if not callable(optimizer) and not isinstance(optimizer, str):
        raise CourseError(f"optimizer must be a name such as 'adamw', or a function; got {short(optimizer)}.")
    if after_step is not None and not callable(after_step):
        raise CourseError(f"after_step must be a function of the steps done, or None; got {short(after_step)}.")


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    r"""The parameters with `requires_grad`, by name. Raises CourseError where there is none."""
    if not isinstance(model, nn.Module):
        raise CourseError(f"model must be a PyTorch module; got {type(model).__name__}.")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise CourseError("nothing to train: no parameter of the model has requires_grad=True; attach a method first")
    if any(p.is_meta for p in model.parameters()):
        raise CourseError("this model is on PyTorch's meta device, without values: load it with its weights")
    return trained


def check_batch_size(batch_size: int, prepared: Prepared, split: str) -> None:
    r"""Raise CourseError for a batch of more rows than there are: it would hold some of them twice."""
    rows = len(prepared.split(split))
    if batch_size > rows:
        raise CourseError(
            f"batch_size must be at most {rows}, as the {split} split of {prepared.name} has no more rows; got "
            f"{batch_size}."
        )


def not_finite(step: int, loss: float, lr: float, half: torch.dtype | None, kept: str) -> CourseError:
    r"""The error for a loss or gradient that is not finite in `step` = 0, 1, … kept: which checkpoint there is."""
    what = (
        f"the loss is {loss}" if not math.isfinite(loss) else f"the loss is {loss:.3g} but its gradient is not finite"
    )
    hint = ", float16's range (load the model with dtype='float32')" if half is torch.float16 else ""
    return CourseError(
        f"training stopped at step {step + 1}: {what} (learning rate {lr:.2g}). Likely causes: a learning rate that "
        f"is too high{hint}, or broken inputs; try a tenth of it, more warm-up or a smaller clip. "
        f"The weights are those of step {step}; {kept}"
    )
