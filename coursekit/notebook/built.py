r"""How a check looks at what a student built: by what an object of a class holds and answers, and by how large the
tensors are that it makes on the way, or how many numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import log2, prod
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # PyTorch's own name for it: there is no other

from coursekit.errors import CourseError
from coursekit.live import Live


def lora_layer(
    make: Callable[..., nn.Module], W: Float[Tensor, "out in"], b: Float[Tensor, " out"], A: Float[Tensor, "r in"],
    B: Float[Tensor, "out r"], x: Float[Tensor, "*batch in"], alpha: float,
) -> Any:  # fmt: skip
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


def recomputed(
    make: type[torch.autograd.Function], W1: Float[Tensor, "f d"], W2: Float[Tensor, "d f"],
    x: Float[Tensor, "tokens d"], g: Float[Tensor, "tokens d"],
) -> Any:  # fmt: skip
    r"""(result, gradients of x, W1 and W2, how often the block ran, bytes that waited for the backward pass).

    make: a Function whose `apply(run, x)` stands for run(x), here a block of two matrices; g arrives from above. The
    bytes are those of tensors that were made in the forward pass and are still there at its end, the result left out.
    A forward pass that gives no tensor gives dots: nothing was attempted.
    """
    x, W1, W2 = (t.clone().requires_grad_() for t in (x, W1, W2))
    runs: list[int] = []

    def run(h: Tensor) -> Tensor:
        runs.append(1)
        return torch.tanh(h @ W1.T) @ W2.T

    with torch.no_grad():
        tried = make.forward(SimpleNamespace(save_for_backward=lambda *tensors: None), run, x)
    if not isinstance(tried, Tensor):
        return ...
    del tried
    runs.clear()
    live = Live()
    known = live.add((x, W1, W2))
    with live:
        y = make.apply(run, x)
    known |= live.add([y])
    there: dict[int | None, int] = {}
    for event in live.events:
        there[event.storage] = there.get(event.storage, 0) + event.change
    waiting = sum(size for storage, size in there.items() if storage not in known)
    try:
        y.backward(g)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise CourseError(
            "the second run has left no graph: in backward, too, autograd records only within torch.enable_grad()"
        ) from error
    gradients = (torch.zeros_like(t) if t.grad is None else t.grad for t in (x, W1, W2))
    return y.detach(), *gradients, len(runs), waiting


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


def adapter_module(
    make: Callable[..., nn.Module], h: Float[Tensor, "*batch d"], W_down: Float[Tensor, "r d"],
    b_down: Float[Tensor, " r"], W_up: Float[Tensor, "d r"], b_up: Float[Tensor, " d"],
) -> Any:  # fmt: skip
    r"""(how it starts, number of trained parameters, output with these weights put in).

    make: a class that is made with d and r, and keeps two linear layers, down and up. A forward pass that gives no
    tensor gives dots: nothing was attempted. How it starts: see `_adapter_start`.
    """
    adapter = make(len(b_up), len(b_down))
    if not isinstance(adapter(h), Tensor):
        return ...
    start = _adapter_start(make(WIDE, 16))
    trained = sum(p.numel() for p in adapter.parameters() if p.requires_grad)
    for layer, W, b in ((adapter.down, W_down, b_down), (adapter.up, W_up, b_up)):
        layer.weight.data = W
        if layer.bias is not None:
            layer.bias.data = b
    return start, trained, adapter(h).detach()


#: How far an adapter may move h at the start, as a share of its length.
NEAR = 0.1


def _adapter_start(adapter: nn.Module) -> str:
    r"""How a fresh adapter of width 16 starts: "near h"; "far from h", or "far by a bias" where it is near without
    them; where no weight gets a gradient "dead", or "dead at both" or "dead at down" by what starts at 0.
    """
    h = torch.randn(8, WIDE, generator=torch.Generator().manual_seed(0))

    def far() -> bool:
        return bool((adapter(h) - h).norm() > NEAR * h.norm())

    if far():
        for layer in (adapter.down, adapter.up):
            if layer.bias is not None:
                layer.bias.data = torch.zeros_like(layer.bias)
        return "far from h" if far() else "far by a bias"
    adapter(h).square().sum().backward()
    if any(p.grad is not None and bool(p.grad.any()) for p in adapter.parameters() if p.dim() == 2):
        return "near h"
    if adapter.down.weight.any():
        return "dead"
    return "dead at down" if adapter.up.weight.any() else "dead at both"


class _Given(nn.Module):
    r"""An adapter with these weights."""

    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.ParameterList(W.clone() for W in weights)

    def forward(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        W_down, b_down, W_up, b_up = self.weights
        return h + nn.functional.linear(torch.relu(nn.functional.linear(h, W_down, b_down)), W_up, b_up)


def inserted(
    insert: Callable[..., Any], load: Callable[[], nn.Module], places: list[str], start: list[tuple[Tensor, ...]],
    ids: Int[Tensor, "batch seq"],
) -> Any:  # fmt: skip
    r"""(logits, trained parameters of the model, of the adapters, logits once every handle was asked to take its hook
    out).

    insert: a function of a model, places in it, and as many adapters, which gives the handles of its hooks. Where it
    gives dots, so does this: nothing was attempted.
    """
    model, adapters = load(), [_Given(*weights) for weights in start]
    own = list(model.parameters())
    handles = insert(model, places, adapters)
    if handles is ...:
        return ...
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        for handle in handles if isinstance(handles, Iterable) else ():
            handle.remove()
        after = model(input_ids=ids).logits
    trained = (sum(p.numel() for p in parts if p.requires_grad)
               for parts in (own, [p for A in adapters for p in A.parameters()]))  # fmt: skip
    return logits, *trained, after


#: Inputs and outputs of the layer on which the shape of IA3's factors is looked at.
OBLONG = (5, 9)


def ia3_layer(
    make: Callable[..., nn.Module], W: Float[Tensor, "out in"], b: Float[Tensor, " out"],
    l: Float[Tensor, " width"], x: Float[Tensor, "*batch in"], side: str,
) -> Any:  # fmt: skip
    r"""(is silent at the start, shape of l, number of trained parameters, output with l put in).

    make: a class that is made with a linear layer and a side, "output" or "input", and keeps its factors as l. A
    forward pass that gives no tensor gives dots: nothing was attempted. The shape of l is told in words, and from a
    layer that is not square: in a square one l fits both sides.
    """
    base = _linear(W, b)
    layer = make(base, side)
    if not isinstance(h := layer(x), Tensor):
        return ...
    silent = torch.equal(h, base(x))
    shape = tuple(make(nn.Linear(*OBLONG), side).l.shape)
    inputs, outputs = OBLONG
    known = {outputs: "l has one factor for each output", inputs: "l has one factor for each input"}
    found = known.get(prod(shape)) if prod(shape) in shape[-1:] else None  # (1, n) scales as (n,) does
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    layer.l.data = l
    return silent, found or f"l has the shape {shape}", trained, layer(x).detach()


def _linear(W: Float[Tensor, "out in"], b: Float[Tensor, " out"]) -> nn.Linear:
    base = nn.Linear(W.shape[1], W.shape[0])
    base.load_state_dict({"weight": W, "bias": b})
    return base


def penalty(make: Callable[..., Any], theta: Float[Tensor, "*shape"], *others: Any) -> Any:
    r"""(penalty, its gradient with respect to theta, 0 where none comes back).

    make: a function of theta and `others`. What is neither a tensor nor a number is given back: nothing was attempted.
    """
    theta = theta.clone().requires_grad_()
    value, found = make(theta, *others), None
    if isinstance(value, int | float):
        return value, torch.zeros_like(theta)
    if not isinstance(value, Tensor):
        return value
    if value.requires_grad:
        (found,) = torch.autograd.grad(value.sum(), [theta], allow_unused=True)
    return value.detach(), torch.zeros_like(theta) if found is None else found


def straight_through(
    make: Callable[..., Any], W: Float[Tensor, "out in"], g: Float[Tensor, "out in"], most: int
) -> Any:
    r"""(values, the gradient that reaches W where g arrives at them, 0 where none comes back).

    make: a function of W and of W rounded to codes from -most to most, whose steps depend on W: through them alone
    rounding has a gradient. What is no tensor is given back: nothing was attempted. Raises CourseError where W changes.
    """
    given, W = W, W.clone().requires_grad_()
    step = W.abs().amax(1, keepdim=True) / most
    value, found = make(W, step * (W / step).round()), None
    if not isinstance(value, Tensor):
        return value
    if not torch.equal(W, given):
        raise CourseError("W itself has changed: it must keep what rounding drops, or small steps are lost")
    if value.requires_grad and value.shape == g.shape:
        (found,) = torch.autograd.grad(value, [W], g, allow_unused=True)
    return value.detach(), torch.zeros_like(g) if found is None else found


#: How `transform` names the work of a function.
FAST, SQUARE, WHOLE = "n log n", "n² steps", "a matrix of n²"
#: The length of the vector on which the work is counted; how many numbers may be made for each of its n log n; and how
#: many vectors long a tensor may be that is no part of a matrix.
LENGTH, FACTOR, LONG = 256, 12, 8


class _TooMuch(Exception):
    r"""More numbers were made than FACTOR n log n."""


class _Work(TorchDispatchMode):
    r"""Sees what every operation is given and gives, those inside an einsum as well: entries of the largest tensor, and
    of all that were given back. Stops where it is too much.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.all = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [t.numel() for t in (out if isinstance(out, list | tuple) else [out]) if isinstance(t, Tensor)]
        self.largest = max([self.largest, *made, *(t.numel() for t in args if isinstance(t, Tensor))])
        self.all += sum(made)
        if max(self.all, self.largest) > FACTOR * LENGTH * log2(LENGTH):
            raise _TooMuch
        return out


def transform(hadamard: Callable[[Tensor], Any], x: Float[Tensor, "*batch n"]) -> Any:
    r"""(H x, how much work it was).

    hadamard: a function that multiplies by the Hadamard matrix H. The work is counted on a vector of its own, long
    enough for n² to be far more than n log n. What is no tensor is given back: nothing was attempted. Raises
    CourseError where no gradient would come back to x.
    """
    y = hadamard(x)
    if not isinstance(y, Tensor):
        return y
    long, work = torch.ones(LENGTH, dtype=x.dtype, requires_grad=True).clone(), _Work()  # may be changed in place
    try:
        with torch.enable_grad(), work:
            through = hadamard(long)
    except _TooMuch:
        return y, WHOLE if work.largest > LONG * LENGTH else SQUARE
    if not through.requires_grad:
        raise CourseError("no gradient comes back to x: stay in tensors, without lists, NumPy or detach()")
    return y, FAST
