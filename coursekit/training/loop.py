r"""One training loop for every method: `fit` trains the parameters that require a gradient, whatever put them there.

A step is what one would write by hand: rows, batches, forward, backward, clip (`update.py`), optimizer. Around that:

* The data order (`order.py`), dropout and everything else that is random is a function of (seed, step). A run that was
  stopped and resumed from its checkpoint therefore gives the same losses and weights, bit for bit, as one that was not.
* The learning rate rises linearly over the first `warmup` share of the steps, then falls linearly towards zero.
* Half precision is `model_modes.py`'s: float32 master weights while training, and each parameter's own precision after.

Several processes, each with its own GPU and its own batches of `batch_size` rows, need no other code:

    accelerate launch --num_processes 4 train.py                        # train.py calls fit(...)
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 train.py        # the same on two CPU processes

The learning rate is not scaled: n processes train like one with n times the batch.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from coursekit.errors import CourseError, flag, number, share, short, whole
from coursekit.evaluation.compatible import check_data
from coursekit.tasks.prepared import Prepared
from coursekit.training import identity
from coursekit.training.checkpoint import Checkpoints, own_folder
from coursekit.training.history import History
from coursekit.training.model_modes import half_precision, training_mode
from coursekit.training.objective import Objective
from coursekit.training.optimizers import MakeOptimizer, make_optimizer, schedule
from coursekit.training.order import Order, mix, seed_everything
from coursekit.training.update import Meter, Update


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


def fit(
    model: nn.Module,
    prepared: Prepared,
    *,
    steps: int = 60,
    batch_size: int = 16,
    lr: float = 1e-3,
    warmup: float = 0.1,
    clip: float | None = 1.0,
    weight_decay: float = 0.0,
    accumulate: int = 1,
    seed: int = 0,
    bucket: bool = False,
    optimizer: str | MakeOptimizer = "adamw",
    split: str = "train",
    objective: Objective | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    activation_checkpointing: bool = False,
    after_step: Callable[[int], Any] | None = None,
    progress: bool = True,
) -> History:
    r"""Train exactly the parameters with `requires_grad`, in place, and return what happened step by step.

    batch_size: rows in one forward pass of one process. accumulate: forward passes per update; the gradient is that of
    the mean over all their labelled tokens, as if they were one batch. warmup: share of the steps. clip: largest norm
    of the gradient, None for no limit. bucket: put rows of about the same length into one batch, so that little of it
    is padding (see `order.py`). It makes a step cheaper and 300 steps of an encoder not measurably worse; of six runs
    of 40 steps at the two best rates two learned nothing from such batches and none without, so it has to be asked for
    (data/evidence/shortcuts.csv). optimizer: "adamw", "sgd", "adamw8bit" (8-bit states), "paged_adamw" (states in host
    memory, paged in), or a function from parameters to an optimizer, which then brings its own learning rates and decay
    (they follow the same schedule). objective: what is minimised instead of the model's own loss, such as
    `forgetting.L2SP` or `forgetting.EWC`: a function of the model and a batch, whose repr tells it apart from others.
    checkpoint: a folder. A checkpoint found there is continued; one is written every `checkpoint_every` steps, at the
    end, and on Ctrl-C. activation_checkpointing: recompute each layer in the backward pass instead of storing it.
    after_step: called with the number of steps done, after each, for a look at validation on the way, say. What it
    draws at random does not move the training.

    The model is in train mode meanwhile, and in the mode it came in afterwards.

    Raises CourseError where nothing is trainable, where a setting makes no sense or the data do not fit the model,
    where the loss stops being finite (before the update, so the weights are still those of the last good step), and
    for a checkpoint of another run, a damaged one, or one that another run is writing.
    """
    steps, accumulate = whole("steps", steps, least=1, such_as=60), whole("accumulate", accumulate, least=1)
    batch_size, seed = whole("batch_size", batch_size, least=1, such_as=16), whole("seed", seed)
    lr, warmup = number("lr", lr, above=0, such_as=1e-3), share("warmup", warmup, such_as=0.1)
    weight_decay, bucket = number("weight_decay", weight_decay, least=0), flag("bucket", bucket)
    flag("activation_checkpointing", activation_checkpointing)
    if clip is not None:
        clip = number("clip (None for no limit)", clip, above=0, such_as=1)
    if checkpoint_every is not None:
        every = "checkpoint_every (None for the end only)"
        checkpoint_every = whole(every, checkpoint_every, least=1, such_as=20)
    check_settings(optimizer=optimizer, objective=objective, checkpoint=checkpoint, after_step=after_step)
    trained = trained_parameters(model)
    folder = Path(checkpoint).expanduser() if checkpoint is not None else None
    check_data(model, prepared, split)
    check_batch_size(batch_size, prepared, split)
    data, half = prepared.split(split), half_precision(model, trained.values())

    with (
        identity.started(model, folder) as start,
        training_mode(model, trained.values(), recompute=activation_checkpointing),
        _interrupt_between_steps() as interrupted,
    ):
        optim = make_optimizer(optimizer, trained.values(), lr, weight_decay)
        update = Update(model, trained, optim, objective, clip, half)
        world, rank, main = update.processes, update.rank, update.accelerator.is_main_process
        settings: dict[str, Any] = {}
        if folder:
            settings = {
                "steps": steps, "batch_size": batch_size, "accumulate": accumulate, "processes": world, "seed": seed,
                "warmup": warmup, "clip": clip, "bucket": bucket,
            } | identity.run(model, prepared, split, update, start)  # fmt: skip
        with own_folder(folder) if folder and main else nullcontext():
            stateful = {"optimizer": optim, "scaler": update.scaler}
            checkpoints = Checkpoints(folder, trained, stateful, settings, writes=main)
            history = checkpoints.resume()
            meter = Meter(update.device, max(history.peak_memory, default=0))
            lengths = torch.tensor(prepared.lengths(split)) if bucket else None
            order = Order(len(data), batch_size * accumulate * world, seed, lengths=lengths, batch=batch_size * world)
            bar = tqdm(
                range(len(history), steps), initial=len(history), total=steps, desc=prepared.name, unit="step",
                disable=not (progress and update.accelerator.is_local_main_process),
            )  # fmt: skip
            for step in bar:
                meter.start()
                seed_everything(mix(seed, step, rank))
                rows = order.of_step(step)[rank::world]
                batches = [
                    prepared.collate(data.__getitems__(rows[i : i + batch_size]))
                    for i in range(0, len(rows), batch_size)
                ]
                rate = update.set_lr(schedule(step, steps, warmup))
                found = update.backward(prepared, batches)
                if not update.finite(found):
                    checkpoints.save(history)
                    raise not_finite(step, found.loss, rate, half, checkpoints.kept)
                update.step()
                history.append(
                    step=step + 1, loss=found.loss, lr=rate, grad_norm=found.norm, noted=found.noted,
                    **meter.stop(batches, world),
                )  # fmt: skip
                bar.set_postfix(loss=f"{found.loss:.3f}", refresh=False)
                if after_step is not None:
                    after_step(len(history))
                if interrupted() or (checkpoint_every and len(history) % checkpoint_every == 0):
                    checkpoints.save(history)
                if interrupted():
                    raise KeyboardInterrupt
            checkpoints.save(history)
    return history


@contextmanager
def _interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    r"""Ctrl-C waits for the end of the step, so that no update is half done; a second one does not wait."""
    asked = False

    def handler(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    # Only the main thread may set a handler, and only there does Ctrl-C arrive.
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
