r"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from coursekit.errors import unknown

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def make_optimizer(
    optimizer: str | MakeOptimizer, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float
) -> Optimizer:
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
    if optimizer not in known:
        raise unknown("optimizer", optimizer, known)
    return known[optimizer](list(parameters), lr=lr, weight_decay=weight_decay)
