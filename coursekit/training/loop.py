r"""One training loop for every method: `fit` trains the parameters that require a gradient, whatever put them there.

What it does per step is what one would write by hand: batch, forward, backward, clip, update. Around that:

* The data order, dropout and everything else that is random is a function of (seed, step). A run that was stopped and
  resumed from its checkpoint therefore gives the same losses and weights, bit for bit, as one that was not.
* The learning rate rises linearly over the first `warmup` share of the steps, then falls linearly towards zero.
* Trainable parameters in half precision are held in float32 meanwhile (master weights) and autocast does the
  arithmetic in the model's own precision. A float16 model always computes under autocast, with loss scaling, because
  its range is small. An adapter in float32 on a bfloat16 base needs neither: the method decides how the two meet.
  Afterwards every parameter has the precision it came with.

Several processes, each with its own GPU and its own batches of `batch_size` rows, need no other code:

    accelerate launch --num_processes 4 train.py                        # train.py calls fit(...)
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 train.py        # the same on two CPU processes

The learning rate is not scaled: n processes train like one with n times the batch.
"""

from __future__ import annotations

import math
import random
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from coursekit.errors import CourseError
from coursekit.methods import attached
from coursekit.modes import in_mode
from coursekit.tasks.prepared import Prepared
from coursekit.training import checkpoint as checkpoints
from coursekit.training.history import History
from coursekit.training.interrupt import interrupt_between_steps
from coursekit.training.model_modes import no_key_value_cache, recomputed_activations
from coursekit.training.optimizers import MakeOptimizer, make_optimizer
from coursekit.training.precision import half_precision, master_weights

__all__ = ["History", "fit", "rows_of_step", "schedule", "seed_everything"]

#: (model, batch) -> the loss to go down, or that and what else to note of the step by name, all of them scalars.
Objective = Callable[[nn.Module, dict[str, Tensor]], Tensor | tuple[Tensor, dict[str, Tensor]]]


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
    optimizer: str | MakeOptimizer = "adamw",
    split: str = "train",
    objective: Objective | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    activation_checkpointing: bool = False,
    progress: bool = True,
) -> History:
    r"""Train exactly the parameters with `requires_grad`, in place, and return what happened step by step.

    batch_size: rows in one forward pass of one process. accumulate: forward passes per update; the gradient
    is that of the mean over all their labelled tokens, as if they were one batch. warmup: share of the steps.
    clip: largest norm of the gradient, None for no limit. optimizer: "adamw", "sgd", "adamw8bit" (8-bit states),
    "paged_adamw" (states in host memory, paged in), or a function from parameters to an optimizer, which then
    brings its own learning rates and decay (they follow the same schedule).
    objective: what is minimised instead of the model's own loss, such as `alignment.DPO` or `forgetting.EWC`: a
    function of the model and a batch, whose repr tells it apart from others.
    checkpoint: a folder. A checkpoint found there is continued; one is written every `checkpoint_every`
    steps, at the end, and on Ctrl-C. activation_checkpointing: recompute each layer in the backward pass
    instead of storing it.

    The model is in train mode meanwhile, and in the mode it came in afterwards.

    Raises CourseError where nothing is trainable, where a setting makes no sense, where the loss stops being
    finite (before the update, so the weights are still those of the last good step), and for a checkpoint of
    another run.
    """
    _check_settings(
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        warmup=warmup,
        checkpoint_every=checkpoint_every,
    )
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise CourseError(
            "nothing to train: no parameter of the model has requires_grad=True; attach a method first"
        )
    data = prepared.split(split)
    prepared.check(model, split)

    with ExitStack() as restore_after:
        restore_after.enter_context(in_mode(model, training=True))
        restore_after.enter_context(no_key_value_cache(model))
        if activation_checkpointing:
            restore_after.enter_context(recomputed_activations(model))
        half = half_precision(model, trained.values())
        restore_after.enter_context(master_weights(trained.values()))
        interrupted = restore_after.enter_context(interrupt_between_steps())

        # Precision and devices are settled by the model; Accelerate connects the processes.
        accelerator = Accelerator(mixed_precision="no")
        world, rank = accelerator.num_processes, accelerator.process_index
        parallel = accelerator.prepare_model(model) if world > 1 else model
        device = next(iter(trained.values())).device
        optim = make_optimizer(optimizer, trained.values(), lr, weight_decay)
        peak_rates = [float(group["lr"]) for group in optim.param_groups]
        autocast = torch.autocast(device.type, half) if half else nullcontext()
        scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
        stateful = {"optimizer": optim, "scaler": scaler}

        settings = {
            "steps": steps, "batch_size": batch_size, "accumulate": accumulate, "processes": world,
            "seed": seed, "warmup": warmup, "clip": clip, "optimizer": type(optim).__name__, "lr": peak_rates,
            "weight_decay": [group.get("weight_decay", 0.0) for group in optim.param_groups],
            "data": _fingerprint(prepared, split), "rows": len(data), "methods": _methods(model),
        }  # fmt: skip
        if objective is not None:
            settings["objective"] = _named(objective)
        folder = Path(checkpoint) if checkpoint is not None else None
        found = checkpoints.newest(folder) if folder else None
        history = checkpoints.restore(found, trained, stateful, settings) if found else History()
        saved = len(history)

        def save() -> None:
            nonlocal saved
            if folder and saved < len(history) and accelerator.is_main_process:
                checkpoints.save(folder, trained, stateful, settings, history)
            saved = len(history)

        optim.zero_grad()
        restore_after.callback(optim.zero_grad)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        bar = tqdm(
            range(len(history), steps), initial=len(history), total=steps, desc=prepared.name, unit="step",
            disable=not (progress and accelerator.is_local_main_process),
        )  # fmt: skip
        for step in bar:
            start = time.perf_counter()
            seed_everything(_mix(seed, step, rank))
            factor = schedule(step, steps, warmup)
            for group, rate in zip(optim.param_groups, peak_rates, strict=True):
                group["lr"] = rate * factor

            rows = rows_of_step(len(data), batch_size * accumulate * world, seed, step)[rank::world]
            batches = [
                prepared.collate(data.__getitems__(rows[i : i + batch_size]))
                for i in range(0, len(rows), batch_size)
            ]
            counts = [prepared.weight(batch) for batch in batches]
            loss, noted = torch.zeros((), device=device), {}
            for index, (batch, count) in enumerate(zip(batches, counts, strict=True)):
                batch = {
                    name: tensor.to(device, non_blocking=True)
                    for name, tensor in prepared.inputs(batch).items()
                }
                last = index == len(batches) - 1
                # Processes exchange gradients once an update, with its last backward pass.
                with nullcontext() if last else accelerator.no_sync(parallel):
                    share = count / sum(counts)
                    with autocast:
                        part, extra = _loss(objective, parallel, batch)
                        part = part * share
                    scaler.scale(part).backward()
                loss += part.detach()
                for name, value in extra.items():
                    noted[name] = (
                        noted.get(name, 0.0) + torch.as_tensor(value, device=device).detach() * share
                    )
            History().append(
                noted=dict.fromkeys(noted, 0.0)
            )  # a name that cannot be is an error before the update

            if world > 1:
                loss = accelerator.reduce(loss, reduction="mean")
                noted = {name: accelerator.reduce(noted[name], reduction="mean") for name in sorted(noted)}
            scaler.unscale_(optim)
            norm = nn.utils.clip_grad_norm_(trained.values(), clip) if clip is not None else None
            # The one point of a step that waits for the device.
            loss_value, norm_value, *notes = _values(loss, norm, *noted.values())
            # Gradients that overflow float16 are routine: the scaler leaves out the update, with a smaller
            # scale next.
            if not math.isfinite(loss_value + (0.0 if scaler.is_enabled() else norm_value or 0.0)):
                save()
                raise _not_finite(
                    step, loss_value, peak_rates[0] * factor, half, folder if saved else None, saved
                )
            scaler.step(optim)
            scaler.update()
            optim.zero_grad()

            seconds = time.perf_counter() - start
            tokens = sum(int(batch["attention_mask"].sum()) for batch in batches) * world
            history.append(
                step=step + 1, loss=loss_value, lr=peak_rates[0] * factor, grad_norm=norm_value,
                seconds=seconds, tokens_per_second=tokens / seconds,
                peak_memory=_peak_memory(device, history),
                noted=dict(zip(noted, notes, strict=True)),
            )  # fmt: skip
            bar.set_postfix(loss=f"{loss_value:.3f}", refresh=False)
            if checkpoint_every and len(history) % checkpoint_every == 0:
                save()
            if interrupted():
                save()
                raise KeyboardInterrupt
        save()
    return history


def seed_everything(seed: int) -> None:
    r"""Seed Python's, NumPy's and PyTorch's generators, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def schedule(step: int, steps: int, warmup: float) -> float:
    r"""The share of the learning rate at `step` = 0, 1, …: up to 1 over the first `warmup` share, then down
    towards 0.

    No step is wasted at a rate of 0: the first has 1/⌈warmup·steps⌉, the last 1/(steps left after warm-up).
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / max(1, steps - rising)


def rows_of_step(rows: int, per_step: int, seed: int, step: int) -> list[int]:
    r"""The rows of step 0, 1, …: every epoch is a fresh permutation, and steps run on from one epoch into the
    next.
    """
    first = step * per_step
    picked: list[int] = []
    while len(picked) < per_step:
        epoch, start = divmod(first + len(picked), rows)
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(_mix(seed, epoch)))
        picked += order[start : start + per_step - len(picked)].tolist()
    return picked


def _mix(*numbers: int) -> int:
    r"""One seed mixed from several numbers, so that neighbouring steps or seeds have nothing in common."""
    return int(
        np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1, np.uint64)[0] >> 1
    )


def _fingerprint(prepared: Prepared, split: str) -> str:
    r"""A name for the data that tells other data, or the same in other tokens, apart by its first rows."""
    first = prepared.split(split)[:32]
    rows = repr([(name, list(first[name])) for name in sorted(first)])
    return f"{prepared.name}/{split}#{zlib.crc32(rows.encode()):08x}"


def _named(objective: Objective) -> str:
    r"""What tells an objective from others, in another process as well: a function's repr has its address in it."""
    name = getattr(objective, "__qualname__", None)
    return f"{objective.__module__}.{name}" if name else repr(objective)


def _methods(model: nn.Module) -> dict[str, str]:
    r"""The adapters on `model`, and which numbers they train: values alone do not say where they belong."""
    chosen = 0
    for name, buffer in model.named_buffers():
        if name.endswith(".index"):
            chosen = zlib.crc32(buffer.cpu().numpy().tobytes(), chosen)
    return {name: f"{method!r}#{chosen:08x}" for name, method in attached(model).items()}


def own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    r"""The model's own loss of a batch. Raises CourseError for preference pairs: it would learn the rejected ones."""
    if "pair" in batch:
        raise CourseError("pairs have a better and a worse answer: train with fit(..., objective=DPO())")
    return model(**batch).loss


def _loss(
    objective: Objective | None, model: nn.Module, batch: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""What the backward pass starts from, and what else the objective has to say about the batch."""
    if objective is None:
        return own_loss(model, batch), {}
    found = objective(model, batch)
    return found if isinstance(found, tuple) else (found, {})


def _values(loss: Tensor, norm: Tensor | None, *notes: Tensor) -> list[float | None]:
    r"""All numbers in one transfer from the device; None for no norm."""
    found = torch.stack([x.float() for x in (loss, *([] if norm is None else [norm]), *notes)]).tolist()
    return found if norm is not None else [found[0], None, *found[1:]]


def _peak_memory(device: torch.device, history: History) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return max(psutil.Process().memory_info().rss, *history.peak_memory[-1:], 0)


def _check_settings(*, warmup: float, checkpoint_every: int | None, **positive: float) -> None:
    for name, value in positive.items():
        if not value > 0:
            raise CourseError(f"{name}={value}: it must be above 0")
    if not 0 <= warmup <= 1:
        raise CourseError(f"warmup={warmup}: it is a share of the steps, from 0 to 1")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise CourseError(
            f"checkpoint_every={checkpoint_every}: it must be at least 1, or None for the end only"
        )


def _not_finite(
    step: int, loss: float, lr: float, half: torch.dtype | None, folder: Path | None, saved: int
) -> CourseError:
    what = (
        f"the loss is {loss}"
        if not math.isfinite(loss)
        else f"the loss is {loss:.3g} but its gradient is not finite"
    )
    hint = ", or float16's range (load the model with dtype='float32')" if half is torch.float16 else ""
    kept = f"the checkpoint of step {saved} in {folder} is good" if folder else "no checkpoint was asked for"
    return CourseError(
        f"training stopped at step {step + 1}: {what} (learning rate {lr:.2g}); likely a rate that is too "
        f"high{hint}, or broken inputs; try a tenth of the rate, more warm-up or a smaller clip. "
        f"The weights are those of step {step}; {kept}"
    )
