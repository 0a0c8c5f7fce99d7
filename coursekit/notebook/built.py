r"""How a check looks at a class that a student built: by what an object of it holds and answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def lora_layer(
    make: Callable[..., nn.Module],
    W: Float[Tensor, "out in"],
    b: Float[Tensor, " out"],
    A: Float[Tensor, "r in"],
    B: Float[Tensor, "out r"],
    x: Float[Tensor, "*batch in"],
    alpha: float,
) -> Any:
    r"""(is silent at the start, A starts random, number of trained parameters, answer with A and B put in).

    make: a class that is made with a linear layer, r and alpha, and keeps A and B. A forward pass that gives no tensor
    gives dots: nothing was attempted.
    """
    base = _linear(W, b)
    layer = make(base, r=len(A), alpha=alpha)
    if not isinstance(h := layer(x), Tensor):
        return ...
    silent, random = torch.equal(h, base(x)), bool(layer.A.any())
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    layer.A.data, layer.B.data = A, B
    return silent, random, trained, layer(x).detach()


def ia3_layer(
    make: Callable[..., nn.Module],
    W: Float[Tensor, "out in"],
    b: Float[Tensor, " out"],
    l: Float[Tensor, " width"],
    x: Float[Tensor, "*batch in"],
    side: str,
) -> Any:
    r"""(is silent at the start, number of trained parameters, output with l put in).

    make: a class that is made with a linear layer and a side, "output" or "input", and keeps its factors as l. A
    forward pass that gives no tensor gives dots: nothing was attempted.
    """
    base = _linear(W, b)
    layer = make(base, side)
    if not isinstance(h := layer(x), Tensor):
        return ...
    silent = torch.equal(h, base(x))
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    layer.l.data = l
    return silent, trained, layer(x).detach()


def _linear(W: Float[Tensor, "out in"], b: Float[Tensor, " out"]) -> nn.Linear:
    base = nn.Linear(W.shape[1], W.shape[0])
    base.load_state_dict({"weight": W, "bias": b})
    return base
