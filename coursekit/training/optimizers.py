r"""Optimizers by name, and how their learning rate rises and falls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from coursekit.errors import one_of

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def make_optimizer(
    optimizer: str | MakeOptimizer, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float
) -> Optimizer:
    r"""An optimizer over `parameters`: one of the course's by its name, or what a function makes of them."""
    if callable(optimizer):
        return optimizer(list(parameters))
    from coursekit.qlora.adam8bit import AdamW8bit
    from coursekit.qlora.paged import paged_adamw

    known: dict[str, Callable[..., Optimizer]] = {
        # fused: one kernel over all parameters, without temporary copies of them.
        "adamw": partial(AdamW, fused=True),
        "sgd": partial(SGD, fused=True),
        "adamw8bit": AdamW8bit,
        "paged_adamw": paged_adamw,
    }
    return known[one_of("optimizer", optimizer, known)](list(parameters), lr=lr, weight_decay=weight_decay)


def schedule(step: int, steps: int, warmup: float) -> float:
    r"""The share of the learning rate at `step` = 0, 1, …: up to 1 over the first `warmup` share of the steps, then
    down towards 0.

    No step is wasted at a rate of 0: the first has 1/⌈warmup·steps⌉, the last 1/(steps left after warm-up).
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / max(1, steps - rising)
