r"""One update of the trained parameters: forward, backward, clip, step; and what it costs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from coursekit.tasks.prepared import Prepared
from coursekit.training.history import check_noted
from coursekit.training.objective import Objective, loss_and_notes


class Found(NamedTuple):
    r"""What the backward passes of a step gave. norm: of the gradient before clipping, None where clipping is off."""

    loss: float
    norm: float | None
    noted: dict[str, float]


class Update:
    r"""Turns the batches of a step into one update, in as many processes as there are.

    optimizer: over the trained parameters; its learning rates are the peak that `set_lr` takes a share of. half: the
    precision to autocast to, None for none; float16 scales its loss.
    """

    def __init__(
        self, model: nn.Module, trained: Mapping[str, nn.Parameter], optimizer: Optimizer,
        objective: Objective | None, clip: float | None, half: torch.dtype | None,
    ) -> None:  # fmt: skip
        self.trained, self.optimizer, self.objective, self.clip = trained, optimizer, objective, clip
        # Precision and devices are settled by the model; Accelerate connects the processes.
        self.accelerator = Accelerator(mixed_precision="no")
        self.processes, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.model = self.accelerator.prepare_model(model) if self.processes > 1 else model
        self.device = next(iter(trained.values())).device
        self.peak_lr = [float(group["lr"]) for group in optimizer.param_groups]
        self.autocast = torch.autocast(self.device.type, half) if half else nullcontext()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half is torch.float16)

    def set_lr(self, share: float) -> float:
        r"""Bring every learning rate to this share of its peak, and return the first."""
        for group, peak in zip(self.optimizer.param_groups, self.peak_lr, strict=True):
            group["lr"] = peak * share
        return self.peak_lr[0] * share

    def backward(self, prepared: Prepared, batches: Sequence[dict[str, Tensor]]) -> Found:
        r"""Gradients of the mean loss over all that is labelled in `batches`, clipped."""
        counts = [prepared.weight(batch) for batch in batches]
        loss, noted = torch.zeros((), device=self.device), dict[str, Tensor]()
        for index, (batch, count) in enumerate(zip(batches, counts, strict=True)):
            inputs = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            share, last = count / sum(counts), index == len(batches) - 1
            # Processes exchange gradients once an update, with its last backward pass.
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.autocast:
                    part, extra = loss_and_notes(self.objective, self.model, inputs)
                    part = part * share
                self.scaler.scale(part).backward()
            loss += part.detach()
            for name, value in extra.items():
                value = torch.as_tensor(value, device=self.device).detach()
                noted[name] = noted.get(name, 0.0) + value * share
        check_noted(noted)  # before the update

        if self.processes > 1:
            loss = self.accelerator.reduce(loss, reduction="mean")
            noted = {name: self.accelerator.reduce(noted[name], reduction="mean") for name in sorted(noted)}
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trained.values(), self.clip) if self.clip is not None else None
        return _on_host(loss, norm, noted)

    def finite(self, found: Found) -> bool:
        r"""Whether the update may be made. Gradients that overflow float16 are routine: the scaler leaves such an
        update out, and takes a smaller scale for the next.
        """
        return math.isfinite(found.loss + (0.0 if self.scaler.is_enabled() else found.norm or 0.0))

    def step(self) -> None:
        r"""Change the parameters, and drop the gradients."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


def _on_host(loss: Tensor, norm: Tensor | None, noted: Mapping[str, Tensor]) -> Found:
    r"""All values in one transfer: the one point of a step that waits for the device."""
    values = torch.stack([x.float() for x in (loss, *([] if norm is None else [norm]), *noted.values())])
    first, *rest = values.tolist()
    norm_value = None if norm is None else rest.pop(0)
    return Found(first, norm_value, dict(zip(noted, rest, strict=True)))


class Meter:
    r"""A stop watch for steps on `device`. peak: bytes that the run had reached before, in a process that is gone."""

    def __init__(self, device: torch.device, peak: int = 0) -> None:
        self.device, self.peak, self.since = device, peak, 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def start(self) -> None:
        r"""A step begins."""
        self.since = time.perf_counter()

    def stop(self, batches: Sequence[dict[str, Tensor]], processes: int) -> dict[str, float]:
        r"""The cost of the step that saw `batches` in each of `processes`. Padding does not count as tokens."""
        seconds = time.perf_counter() - self.since
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches) * processes
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self.peak = max(self.peak, psutil.Process().memory_info().rss)
        return {"seconds": seconds, "tokens_per_second": tokens / seconds, "peak_memory": self.peak}
