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
    r"""(is silent at the start, how A starts, number of trained parameters, answer with A and B put in).

    make: a class that is made with a linear layer, r and alpha, and keeps A and B. A forward pass that gives no tensor
    gives dots: nothing was attempted. How A starts: see `start_of`.
    """
    base = _linear(W, b)
    layer = make(base, r=len(A), alpha=alpha)
    if not isinstance(h := layer(x), Tensor):
        return ...
    silent = torch.equal(h, base(x))
    start = start_of(make(nn.Linear(WIDE, 8), r=4, alpha=alpha).A.detach())
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    layer.A.data, layer.B.data = A, B
    return silent, start, trained, layer(x).detach()


#: Inputs of the layer whose A is looked at: wide enough for entries of size 1 to be far above 1/√d_in.
WIDE = 576
#: How far the entries of A may be from 1/√d_in, as a factor.
SPREAD = 10


def start_of(A: Float[Tensor, "r in"]) -> str:
    r"""How A starts: "random", or what is wrong with it: "zero", "one direction" (its rows are not independent),
    "too large" or "too small" (the root of the mean square of its entries, against $1/\sqrt{d_{in}}$).
    """
    if not A.any():
        return "zero"
    if int(torch.linalg.matrix_rank(A.float())) < len(A):
        return "one direction"
    size = float(A.float().square().mean().sqrt()) * A.shape[1] ** 0.5
    return "too large" if size > SPREAD else "too small" if size < 1 / SPREAD else "random"


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
