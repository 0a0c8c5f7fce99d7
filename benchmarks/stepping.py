r"""One training step, timed; and many, interleaved: what is compared shares whatever the machine does meanwhile.

Runs in any environment with PyTorch: it imports nothing of the course.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Took(NamedTuple):
    r"""What a step came to."""

    loss: float
    seconds: float
    cpu_seconds: float  # of this process alone: what others do on the machine is not in it


Step = Callable[[], Took]


def stepper(model: nn.Module, batch: dict[str, Tensor]) -> Step:
    r"""A function that makes one training step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> Took:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start, cpu = time.perf_counter(), time.process_time()
        torch.manual_seed(0)  # the base's own dropout, the same for all
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()  # waits for the device
        return Took(value, time.perf_counter() - start, time.process_time() - cpu)

    return step


def interleaved(ours: Step, theirs: Step, rounds: int) -> dict[str, Any]:
    r"""Each round one step of each, in an order that alternates: ratios ours / theirs, and how far the losses part.

    first_loss_gap: before any update, where both are the same function. Later AdamW makes whole steps of rounding
    errors wherever a gradient is nearly 0, so largest_loss_gap may grow though nothing is wrong.
    """
    first = ours(), theirs()
    ours(), theirs()  # warmed up: allocator, thread pool, lazy optimizer state
    ratios: dict[str, list[float]] = {"seconds": [], "cpu_seconds": []}
    gaps = []
    for i in range(rounds):
        order = (ours, theirs) if i % 2 == 0 else (theirs, ours)
        took = {step: step() for step in order}
        gaps.append(abs(took[ours].loss - took[theirs].loss))
        for what, values in ratios.items():
            values.append(getattr(took[ours], what) / getattr(took[theirs], what))
    row: dict[str, Any] = {"rounds": rounds}
    for name, what in (("ratio", "seconds"), ("cpu_ratio", "cpu_seconds")):
        low, _, high = statistics.quantiles(ratios[what], n=4)
        row[name] = round(statistics.median(ratios[what]), 3)
        row[f"{name}_quartiles"] = [round(low, 3), round(high, 3)]
    return row | {"first_loss_gap": abs(first[0].loss - first[1].loss), "largest_loss_gap": max(gaps)}
