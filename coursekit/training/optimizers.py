r"""Optimizers by name, and how their learning rate rises and falls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pkgutil import resolve_name
from typing import Any

from torch import nn
from torch.optim import Optimizer

from coursekit.errors import CourseError, one_of, short

#: Where each is defined, and its settings. By name: whoever trains with AdamW need not load the others.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    # fused: one kernel over all parameters, without temporary copies of them.
    "adamw": ("torch.optim:AdamW", {"fused": True}),
    "sgd": ("torch.optim:SGD", {"fused": True}),
    "adamw8bit": ("coursekit.qlora.adam8bit:AdamW8bit", {}),
    "paged_adamw": ("coursekit.qlora.paged:paged_adamw", {}),
}

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def make_optimizer(
    optimizer: str | MakeOptimizer, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float
) -> Optimizer:
    r"""An optimizer over `parameters`: one of the course's by its name, or what a function makes of them."""
    parameters = list(parameters)
    if not callable(optimizer):
        name, more = OPTIMIZERS[one_of("optimizer", optimizer, OPTIMIZERS)]
        return resolve_name(name)(parameters, lr=lr, weight_decay=weight_decay, **more)
    made = optimizer(parameters)
    if not isinstance(made, Optimizer):
        raise CourseError(f"optimizer must make an optimizer of PyTorch; got {short(made)}.")
    held = {id(p) for group in made.param_groups for p in group["params"]}
    if held != {id(p) for p in parameters}:
        raise CourseError(
            f"this optimizer holds {len(held & {id(p) for p in parameters})} of the {len(parameters)} tensors that "
            f"train, and {len(held - {id(p) for p in parameters})} others: make it from the parameters it is given"
        )
    return made


def schedule(step: int, steps: int, warmup: float) -> float:
    r"""The share of the learning rate at `step` = 0, 1, …: up to 1 over the first `warmup` share of the steps, then
    down towards 0.

    No step is wasted at a rate of 0: the first has 1/⌈warmup·steps⌉, the last 1/(steps left after warm-up).
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / max(1, steps - rising)
