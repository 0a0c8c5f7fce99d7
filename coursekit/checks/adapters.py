r"""The exercises of notebooks 02_adapters and 02b_pruned_adapters that ask for one right answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.checks.soft_prompts_train import load_tiny

#: W_down (r, d), b_down (r,), W_up (d, r), b_up (d,).
Weights = tuple[Tensor, Tensor, Tensor, Tensor]

# adapters-module ------------------------------------------------------------------------------------------


class Adapter(nn.Module):
    r"""h + A(h), with a bottleneck A of width r that starts small."""

    def __init__(self, d: int, r: int):
        super().__init__()
        self.down, self.up = nn.Linear(d, r), nn.Linear(r, d)
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.up(F.relu(self.down(h)))


def added(h: Tensor, W_down: Tensor, b_down: Tensor, W_up: Tensor, b_up: Tensor) -> Tensor:
    r"""h + W_up relu(W_down h + b_down) + b_up."""
    return h + F.linear(F.relu(F.linear(h, W_down, b_down)), W_up, b_up)


def _found(forward: Callable[..., Tensor], start: str = "near h", biases: bool = True) -> Callable[..., Any]:
    r"""What the stub's `adapters_module` finds of an Adapter: how it starts, parameters, output."""

    def wrong(h: Tensor, *weights: Tensor) -> tuple[str, int, Tensor]:
        return start, sum(W.numel() for W in weights if biases or W.dim() == 2), forward(h, *weights)

    return wrong


def _drawn(draw: Draw) -> tuple[Tensor, ...]:
    d = draw.whole(4, 7)
    r = draw.whole(2, d - 1)
    shapes = ((2, 3, d), (r, d), (r,), (d, r), (d,))
    return tuple(draw.normal(*shape, dtype=torch.float32) for shape in shapes)


MODULE = Exercise(
    id="adapters-module", points=4, difficulty=3, minutes=12,
    secret=_drawn, reference=_found(added), part=Adapter,
    parts=("how it starts", "how many numbers train", "its output"),
    mutants={
        "the residual is missing: forward must return h and, added to it, what the bottleneck makes of it":
            _found(lambda h, Wd, bd, Wu, bu: added(h, Wd, bd, Wu, bu) - h, "far from h"),
        "the non-linearity is missing: without relu the two projections are one low-rank matrix":
            _found(lambda h, Wd, bd, Wu, bu: h + F.linear(F.linear(h, Wd, bd), Wu, bu)),
        "relu stands in the wrong place: it bends the r numbers in the middle, not what comes out":
            _found(lambda h, Wd, bd, Wu, bu: h + F.relu(F.linear(F.linear(h, Wd, bd), Wu, bu))),
        "relu stands in the wrong place: it bends the r numbers in the middle, not the sum":
            _found(lambda h, Wd, bd, Wu, bu: F.relu(h + F.linear(F.linear(h, Wd, bd), Wu, bu)), "far from h"),
        "it starts too far from h: draw both weights small, with a standard deviation of 0.01, say":
            _found(added, "far from h"),
        "a bias takes it too far from h, not the weights: nn.Linear draws its bias at random, too; start both "
        "at 0 with nn.init.zeros_": _found(added, "far by a bias"),
        "both weights start at 0, and each gets its gradient through the other: neither will ever move":
            _found(added, "dead at both"),
        "W_down starts at 0, and relu(0) is 0 and passes no gradient: neither weight will ever move":
            _found(added, "dead at down"),
        "no gradient reaches either weight at the start: neither will ever move": _found(added, "dead"),
        "the biases are missing: 2dr + r + d parameters train":
            _found(lambda h, Wd, bd, Wu, bu: h + F.linear(F.relu(F.linear(h, Wd)), Wu), biases=False),
        "this is gelu; the exercise asks for relu":
            _found(lambda h, Wd, bd, Wu, bu: h + F.linear(F.gelu(F.linear(h, Wd, bd)), Wu, bu)),
    },
)  # fmt: skip


# adapters-insert ------------------------------------------------------------------------------------------

_PLACES = ["model.layers.0.mlp", "model.layers.1.mlp"]
Hook = Callable[[Tensor, Tensor, Weights], Tensor]


def insert(model: nn.Module, places: list[str], adapters: list[nn.Module]) -> list[Any]:
    r"""Freeze `model`, and let adapters[i] change what leaves the module at places[i]; the hooks' handles."""
    model.requires_grad_(False)
    return [
        model.get_submodule(place).register_forward_hook(lambda _, inputs, h, A=A: A(h))
        for place, A in zip(places, adapters, strict=True)
    ]


def _inserted(
    load: Any, places: list[str], start: list[Weights], ids: Tensor, *, change: Hook = lambda x, h, A: added(h, *A),
    model_trains: bool = False, adapters_train: bool = True, taken_out: bool = True,
) -> tuple[Tensor, int, int, Tensor]:  # fmt: skip
    r"""What `notebook.built.inserted` finds: logits, trained parameters of the model and of the adapters, and the
    logits once all hooks are taken out.
    """
    model = load()
    with torch.no_grad():
        before = model(input_ids=ids).logits
        for place, A in zip(places, start, strict=False):
            model.get_submodule(place).register_forward_hook(lambda _, x, h, A=A: change(x[0], h, A))
        after = model(input_ids=ids).logits
    trained = sum(t.numel() for A in start for t in A)
    whole = sum(p.numel() for p in model.parameters())
    return after, whole * model_trains, trained * adapters_train, before if taken_out else after


def _insert_case(draw: Draw) -> tuple[Any, ...]:
    r = draw.whole(2, 4)
    shapes = ((r, 16), (r,), (16, r), (16,))
    start = [tuple(0.4 * draw.normal(*s, dtype=torch.float32) for s in shapes) for _ in _PLACES]
    return load_tiny, list(_PLACES), start, draw.integers(1, 39, 3, draw.whole(4, 7))


INSERT = Exercise(
    id="adapters-insert", points=5, difficulty=3,
    minutes=10,  # the page above it gives the hook
    secret=_insert_case, reference=_inserted, part=insert,
    parts=(
        "the logits",
        "how many of the model's numbers train",
        "how many of the adapters' train",
        "the logits without the hooks",
    ),  # fmt: skip
    tolerance=1e-4,
    mutants={
        "the model answers as before: the hook must return the new output, and stay until its handle is used":
            lambda load, places, start, ids: _inserted(load, [], start, ids),
        "every hook uses the last adapter: a function made in a loop looks its variables up when it runs; bind "
        "the adapter, as in lambda module, inputs, h, adapter=adapter":
            lambda load, places, start, ids: _inserted(load, places, [start[-1]] * len(start), ids),
        "h is added twice: the adapter's own forward adds it already":
            lambda *given: _inserted(*given, change=lambda x, h, A: h + added(h, *A)),
        "the adapter reads the module's input: a hook's third argument is the output h":
            lambda *given: _inserted(*given, change=lambda x, h, A: added(x, *A)),
        "the adapter reads the module's input, and that is added to h, too: let it read h, and return what it gives":
            lambda *given: _inserted(*given, change=lambda x, h, A: h + added(x, *A)),
        "only the first place has an adapter: each place gets its own":
            lambda load, places, start, ids: _inserted(load, places[:1], start, ids),
        "the model's own weights still train: freeze them": lambda *given: _inserted(*given, model_trains=True),
        "the adapters are frozen as well: only the model should be":
            lambda *given: _inserted(*given, adapters_train=False),
        "the hooks cannot be taken out again: return the list of their handles":
            lambda *given: _inserted(*given, taken_out=False),
    },
)  # fmt: skip


# adapters-pfeiffer ----------------------------------------------------------------------------------------


def bottleneck(W_down: Tensor, W_up: Tensor, x: Tensor) -> Tensor:
    r"""A(x), without a residual."""
    return F.linear(F.relu(F.linear(x, W_down)), W_up)


def layer_norm(gain: Tensor, shift: Tensor, x: Tensor) -> Tensor:
    r"""LN(x)."""
    return F.layer_norm(x, gain.shape, gain, shift)


Functions = tuple[Tensor, Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def _block(draw: Draw) -> Functions:
    normal, d, r = partial(draw.normal, dtype=torch.float32), draw.whole(5, 8), draw.whole(2, 4)
    h, x = normal(2, 3, d), 2 * normal(2, 3, d)
    A = partial(bottleneck, normal(r, d), normal(d, r))
    return h, x, A, partial(layer_norm, 1 + 0.5 * normal(d), 0.5 * normal(d))


def pfeiffer(h: Tensor, x: Tensor, A: Callable[[Tensor], Tensor], LN: Callable[[Tensor], Tensor]) -> Tensor:
    r"""LN(h + A(LN(h + x)) + x): the same LN twice."""
    return LN(h + A(LN(h + x)) + x)


PFEIFFER = Exercise(
    id="adapters-pfeiffer", points=3, difficulty=3, minutes=8,
    secret=_block, reference=pfeiffer,
    mutants={
        "A reads h here, which is Houlsby's adapter; in the picture an arrow leads from a norm to A":
            lambda h, x, A, LN: LN(h + A(h) + x),
        "A reads h + x as it is: it goes through the norm first": lambda h, x, A, LN: LN(h + A(h + x) + x),
        "the norm before A sees h alone: x is added before it": lambda h, x, A, LN: LN(h + A(LN(h)) + x),
        "A reads x here, which is the parallel adapter; in the picture an arrow leads from a norm to A":
            lambda h, x, A, LN: LN(h + A(x) + x),
        "the block's residual x is missing in the last sum": lambda h, x, A, LN: LN(h + A(LN(h + x))),
        "h is missing in the last sum: A is added to the feed-forward's output, it does not replace it":
            lambda h, x, A, LN: LN(A(LN(h + x)) + x),
        "this adds A to the normed sum; the last sum has h and x as they were before the first norm":
            lambda h, x, A, LN: LN(LN(h + x) + A(LN(h + x))),
        "this adds A behind the norm, as Lin's adapter does; in the picture a norm comes last":
            lambda h, x, A, LN: LN(h + x) + A(LN(h + x)),
        "the last norm is missing: LN is used twice": lambda h, x, A, LN: h + A(LN(h + x)) + x,
    },
)  # fmt: skip


# adapters-snip --------------------------------------------------------------------------------------------


def _loss(h: Tensor, y: Tensor, W_down: Tensor, W_up: Tensor) -> Tensor:
    return F.mse_loss(h + F.linear(F.relu(F.linear(h, W_down)), W_up), y)


def _gradients(loss: Callable[..., Tensor], weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    free = [W.detach().clone().requires_grad_() for W in weights]
    return torch.autograd.grad(loss(*free), free)


def snip(loss: Callable[..., Tensor], weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    r"""|g w| for every weight, with g the gradient of loss(*weights)."""
    return tuple((g * W).abs() for g, W in zip(_gradients(loss, weights), weights, strict=True))


def _scored(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    return lambda loss, weights: tuple(change(g, W) for g, W in zip(_gradients(loss, weights), weights, strict=True))


def _gone(loss: Callable[..., Tensor], weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    r"""By how much the loss really moves when each weight in turn is set to 0."""
    before, scores = loss(*weights), []
    for i, W in enumerate(weights):
        moved = torch.empty_like(W)
        for row, column in torch.cartesian_prod(*map(torch.arange, W.shape)).tolist():
            without = W.clone()
            without[row, column] = 0
            moved[row, column] = (loss(*weights[:i], without, *weights[i + 1 :]) - before).abs()
        scores.append(moved)
    return tuple(scores)


def _task(draw: Draw) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    n, d, r = draw.whole(5, 8), draw.whole(4, 6), draw.whole(2, 3)
    h, y, W_down, W_up = (draw.normal(*s, dtype=torch.float32) for s in ((n, d), (n, d), (r, d), (d, r)))
    return partial(_loss, h, y), (W_down, W_up)


SNIP = Exercise(
    id="adapters-snip", points=4, difficulty=3, minutes=8,
    secret=_task, reference=snip,
    mutants={
        "this is |g| alone: a weight of 0 with a large gradient can go without changing anything":
            _scored(lambda g, W: g.abs()),
        "this is |w|: the score by size, which does not look at the loss": _scored(lambda g, W: W.abs()),
        "the sign is still in it: a weight that matters is one whose going moves the loss, up or down":
            _scored(lambda g, W: g * W),
        "this is the square of the score: the order is the same, but |g w| is asked for":
            _scored(lambda g, W: (g * W).square()),
        "the gradient still has its sign: take the absolute value of the product": _scored(lambda g, W: g * W.abs()),
        "this takes each weight away in turn: exact, but one pass for each weight; the slope needs one in all": _gone,
    },
)  # fmt: skip
