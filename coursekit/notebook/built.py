r"""How a check looks at what a student built: by what an object of a class holds and answers, and by how large the
tensors are that it makes on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # PyTorch's own name for it: there is no other


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


class _Largest(TorchDispatchMode):
    r"""Sees what every operation gives, those inside an einsum as well, and keeps the largest number of entries."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [t for t in (out if isinstance(out, list | tuple) else [out]) if isinstance(t, Tensor)]
        self.entries = max([self.entries, *(t.numel() for t in made)])
        return out


def without_matrix(
    make: Callable[..., Callable[..., Any]],
    x: Float[Tensor, "batch seq in"],
    A: Float[Tensor, "n n n"],
    s: Float[Tensor, "n out_n"],
    t: Float[Tensor, "n in_n"],
) -> Any:
    r"""(output, whether every tensor on the way was smaller than W).

    make: a class that is made with A, s and t, and whose objects multiply by the W of these. A forward pass that gives
    no tensor gives what it gave: nothing was attempted.
    """
    with _Largest() as seen:
        y = make(A, s, t)(x)
    return (y.detach(), seen.entries < s.numel() * t.numel()) if isinstance(y, Tensor) else y
