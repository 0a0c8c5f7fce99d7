r"""The exercises of notebook 02_adapters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# adapters-forward -----------------------------------------------------------------------------------------


def _bottleneck(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    random = _random(seed)
    # r = d, which no real bottleneck has: whoever multiplies from the wrong side gets numbers, and a hint, not an
    # error about shapes.
    d = r = 6
    shapes = ((2, 3, d), (r, d), (r,), (d, r), (d,))
    return tuple(torch.randn(*shape, generator=random) for shape in shapes)


def forward(h: Tensor, W_down: Tensor, b_down: Tensor, W_up: Tensor, b_up: Tensor) -> Tensor:
    r"""h + W_up relu(W_down h + b_down) + b_up."""
    return h + F.linear(F.relu(F.linear(h, W_down, b_down)), W_up, b_up)


def _secret_forward(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d = draw.whole(4, 7)
    r = d if draw.kind == 0 else draw.whole(2, d - 1)
    shapes = ((2, 3, d), (r, d), (r,), (d, r), (d,))
    return tuple(draw.normal(*shape, dtype=torch.float32) for shape in shapes)


FORWARD = register(
    Exercise(
        id="adapters-forward",
        points=3,
        difficulty=2,
        minutes=10,
        hints=(
            "Four steps: project down, apply relu, project up, add what came in.",
            "F.linear(h, W, b) is W h + b for every token, with W stored as (out, in), as PyTorch does.",
            "h + F.linear(F.relu(...), W_up, b_up): the residual is the h that came in, not what relu makes of it.",
        ),
        inputs=_bottleneck,
        secret=_secret_forward,
        reference=forward,
        mutants=(
            Mutant(
                lambda h, Wd, bd, Wu, bu: F.linear(F.relu(F.linear(h, Wd, bd)), Wu, bu),
                "the residual is missing: what the adapter computes is added to h",
            ),
            Mutant(
                lambda h, Wd, bd, Wu, bu: h + F.linear(F.linear(h, Wd, bd), Wu, bu),
                "the non-linearity is missing: without relu the two projections are one low-rank matrix",
            ),
            Mutant(
                lambda h, Wd, bd, Wu, bu: h + F.relu(F.linear(F.linear(h, Wd, bd), Wu, bu)),
                "relu stands in the wrong place: it bends the r numbers in the middle, not what comes out",
            ),
            Mutant(
                lambda h, Wd, bd, Wu, bu: F.relu(h + F.linear(F.linear(h, Wd, bd), Wu, bu)),
                "relu stands in the wrong place: it bends the r numbers in the middle, not the sum",
            ),
            Mutant(
                lambda h, Wd, bd, Wu, bu: h + F.relu(h @ Wd + bd) @ Wu + bu,
                "this is h W with rows; W is stored as (out, in) here, so it is h @ W.T, or F.linear(h, W)",
            ),
            Mutant(
                lambda h, Wd, bd, Wu, bu: h + F.linear(F.relu(F.linear(h, Wu, bd)), Wd, bu),
                "the projections are in the wrong order: down first, then up",
            ),
            Mutant(
                lambda h, Wd, bd, Wu, bu: h + F.linear(F.relu(F.linear(h, Wd)), Wu),
                "both biases are missing: they train too, and pruning leaves them alone",
            ),
            Mutant(
                lambda h, Wd, bd, Wu, bu: h + F.linear(F.relu(F.linear(h, Wd)), Wu, bu),
                "the bias of the down projection is missing",
            ),
            Mutant(
                lambda h, Wd, bd, Wu, bu: h + F.linear(F.relu(F.linear(h, Wd, bd)), Wu),
                "the bias of the up projection is missing",
            ),
            Mutant(
                lambda h, Wd, bd, Wu, bu: h + F.linear(F.gelu(F.linear(h, Wd, bd)), Wu, bu),
                "this is gelu; the exercise asks for relu",
            ),
        ),
        kinds=2,
    )
)


# adapters-pfeiffer ----------------------------------------------------------------------------------------


def bottleneck(W_down: Tensor, W_up: Tensor, x: Tensor) -> Tensor:
    r"""A(x), without a residual."""
    return F.linear(F.relu(F.linear(x, W_down)), W_up)


def layer_norm(gain: Tensor, shift: Tensor, x: Tensor) -> Tensor:
    r"""LN(x)."""
    return F.layer_norm(x, gain.shape, gain, shift)


Functions = tuple[Tensor, Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def _sublayer(normal: Callable[..., Tensor], d: int, r: int) -> Functions:
    h, x = normal(2, 3, d), 2 * normal(2, 3, d)
    A = partial(bottleneck, normal(r, d), normal(d, r))
    return h, x, A, partial(layer_norm, 1 + 0.5 * normal(d), 0.5 * normal(d))


def _block(seed: int) -> Functions:
    random = _random(seed)
    return _sublayer(lambda *shape: torch.randn(*shape, generator=random), 6, 3)


def _secret_block(draw: Draw) -> Functions:
    return _sublayer(partial(draw.normal, dtype=torch.float32), draw.whole(5, 8), draw.whole(2, 4))


def pfeiffer(h: Tensor, x: Tensor, A: Callable[[Tensor], Tensor], LN: Callable[[Tensor], Tensor]) -> Tensor:
    r"""LN(h + A(LN(h + x)) + x): the same LN twice."""
    return LN(h + A(LN(h + x)) + x)


PFEIFFER = register(
    Exercise(
        id="adapters-pfeiffer",
        points=3,
        difficulty=3,
        minutes=10,
        hints=(
            "Begin at the output and go backwards: which arrows end in the last norm?",
            "A reads what the block would have put out without an adapter, its norm included.",
            "Three terms meet before the last norm: the feed-forward's output, what A adds, and the residual.",
        ),
        inputs=_block,
        secret=_secret_block,
        reference=pfeiffer,
        mutants=(
            Mutant(
                lambda h, x, A, LN: LN(h + A(h) + x),
                "A reads h here, which is Houlsby's adapter; in the picture an arrow leads from a norm to A",
            ),
            Mutant(
                lambda h, x, A, LN: LN(h + A(h + x) + x),
                "A reads h + x as it is: it goes through the norm first",
            ),
            Mutant(
                lambda h, x, A, LN: LN(h + A(LN(h)) + x),
                "the norm before A sees h alone: x is added before it",
            ),
            Mutant(
                lambda h, x, A, LN: LN(h + A(x) + x),
                "A reads x here, which is the parallel adapter; in the picture an arrow leads from a norm to A",
            ),
            Mutant(
                lambda h, x, A, LN: LN(h + A(LN(h + x))),
                "the block's residual x is missing in the last sum",
            ),
            Mutant(
                lambda h, x, A, LN: LN(A(LN(h + x)) + x),
                "h is missing in the last sum: A is added to the feed-forward's output, it does not replace it",
            ),
            Mutant(
                lambda h, x, A, LN: LN(LN(h + x) + A(LN(h + x))),
                "this adds A to the normed sum; the last sum has h and x as they were before the first norm",
            ),
            Mutant(
                lambda h, x, A, LN: LN(h + x) + A(LN(h + x)),
                "this adds A behind the norm, as Lin's adapter does; in the picture a norm comes last",
            ),
            Mutant(
                lambda h, x, A, LN: h + A(LN(h + x)) + x,
                "the last norm is missing: LN is used twice",
            ),
        ),
    )
)


# adapters-prune -------------------------------------------------------------------------------------------


def _weights(seed: int) -> tuple[tuple[Tensor, ...], float]:
    random = _random(seed)
    # Layers of different scale: one order of all keeps much of one and little of another.
    weights = tuple(scale * torch.randn(5, 8, generator=random) for scale in (1.0, 0.3, 2.0))
    if seed == 1:
        weights = _with_ties(weights)
    return weights, (0.75, 0.4, 1.0)[seed]  # of 120 weights: 90, 48, 120 go


def _with_ties(weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    r"""On a grid so coarse that many |w| are equal."""
    return tuple((4 * W).round() / 4 for W in weights)


def _tied(weights: tuple[Tensor, ...], go: int) -> bool:
    r"""Whether the smallest |w| that stays and the largest that goes are equal, when `go` weights go."""
    flat = torch.cat([W.abs().flatten() for W in weights]).sort().values
    return bool(flat[go - 1] == flat[go])


def prune(weights: tuple[Tensor, ...], pruned: float) -> tuple[Tensor, ...]:
    r"""True where |w| is among the largest of all weights together, for all but the fraction `pruned`.

    Of equal |w| the earlier stays.
    """
    n = sum(W.numel() for W in weights)
    return _first(weights, n - round(pruned * n))


def _first(weights: tuple[Tensor, ...], keep: int) -> tuple[Tensor, ...]:
    flat = torch.cat([W.abs().flatten() for W in weights])
    stays = torch.zeros(len(flat), dtype=torch.bool)
    stays[flat.argsort(descending=True, stable=True)[:keep]] = True
    parts = stays.split([W.numel() for W in weights])
    return tuple(part.view(W.shape) for part, W in zip(parts, weights, strict=True))


def _each_on_its_own(weights: tuple[Tensor, ...], pruned: float) -> tuple[Tensor, ...]:
    return tuple(prune((W,), pruned)[0] for W in weights)


def _one_too_few(weights: tuple[Tensor, ...], pruned: float) -> tuple[Tensor, ...]:
    n = sum(W.numel() for W in weights)
    return _first(weights, max(n - round(pruned * n) - 1, 0))


def _above(weights: tuple[Tensor, ...], pruned: float) -> tuple[Tensor, ...]:
    r"""By a threshold, the smallest |w| that stays: where nothing stays, index -1 is the smallest of all."""
    flat = torch.cat([W.abs().flatten() for W in weights])
    keep = len(flat) - round(pruned * len(flat))
    threshold = flat.sort(descending=True).values[keep - 1]
    return tuple(W.abs() >= threshold for W in weights)


def _by(weights: tuple[Tensor, ...], pruned: float, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    r"""Masks by another size of a weight than |w|; it has to be above 0 for `prune` to see it as it is."""
    return prune(tuple(change(W) for W in weights), pruned)


def _secret_prune(draw: Draw) -> tuple[tuple[Tensor, ...], float]:
    rows, columns = draw.whole(4, 6), draw.whole(6, 9)
    scales = 1.0, draw.real(0.2, 0.4), draw.real(1.5, 3.0)
    weights = _with_ties(tuple(scale * draw.normal(rows, columns) for scale in scales))
    n = 3 * rows * columns
    while True:  # rounded down or to the nearest, from either side: the same number of weights stays
        go = draw.whole(n // 3, n - 10)
        exact = int(go / n * n) == go and int((1 - go / n) * n) == n - go
        if exact and _tied(weights, go):
            return weights, go / n


PRUNE = register(
    Exercise(
        id="adapters-prune",
        points=3,
        difficulty=3,
        minutes=15,
        hints=(
            "One order for all layers: put all |w| into one long tensor first, with torch.cat and flatten.",
            "How many stay? Not pruned · n, but the rest. A comparison with a threshold keeps too many where |w| are "
            "equal: find the positions of the largest, flat.argsort(descending=True, stable=True)[:keep].",
            "Set those positions of a long mask of False to True, split it into pieces of W.numel() entries, and give "
            "each the shape of its matrix.",
        ),
        inputs=_weights,
        secret=_secret_prune,
        reference=prune,
        mutants=(
            Mutant(
                _each_on_its_own,
                "this prunes every layer by the same share; the largest of all layers together should stay",
            ),
            Mutant(
                lambda weights, pruned: prune(weights, 1 - pruned),
                "this keeps the fraction that should go: `pruned` is the part that is taken away",
            ),
            Mutant(
                lambda weights, pruned: tuple(~m for m in prune(weights, pruned)),
                "the masks are the wrong way round: true is a weight that stays",
            ),
            Mutant(
                lambda weights, pruned: tuple(~m for m in prune(weights, 1 - pruned)),
                "this keeps the smallest weights: the largest should stay",
            ),
            Mutant(
                lambda weights, pruned: _by(weights, pruned, lambda W: W.exp()),
                "this compares w with its sign: a weight of −3 is large too, so compare |w|",
            ),
            Mutant(
                lambda weights, pruned: tuple(
                    W * m for W, m in zip(weights, prune(weights, pruned), strict=True)
                ),
                "these are the pruned weights; the masks are asked for: true where a weight stays",
            ),
            Mutant(
                _one_too_few,
                "one weight too few stays: n - round(pruned * n) of them should",
            ),
            Mutant(
                _above,
                "a threshold keeps all of several equal |w|, and something even with pruned = 1: choose positions, "
                "with argsort, so that exactly n - round(pruned * n) stay",
            ),
        ),
        tolerance=0.0,
    )
)


# adapters-snip --------------------------------------------------------------------------------------------


def _task(seed: int) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    random = _random(seed)
    h, y, W_down, W_up = (torch.randn(*s, generator=random) for s in ((7, 6), (7, 6), (3, 6), (6, 3)))
    return partial(_loss, h, y), (W_down, W_up)


def _loss(h: Tensor, y: Tensor, W_down: Tensor, W_up: Tensor) -> Tensor:
    return F.mse_loss(h + F.linear(F.relu(F.linear(h, W_down)), W_up), y)


def _gradients(loss: Callable[..., Tensor], weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    free = [W.detach().clone().requires_grad_() for W in weights]
    return torch.autograd.grad(loss(*free), free)


def snip(loss: Callable[..., Tensor], weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    r"""|g w| for every weight, with g the gradient of loss(*weights)."""
    return tuple((g * W).abs() for g, W in zip(_gradients(loss, weights), weights, strict=True))


def _scored(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    return lambda loss, weights: tuple(
        change(g, W) for g, W in zip(_gradients(loss, weights), weights, strict=True)
    )


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


def _secret_snip(draw: Draw) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    n, d, r = draw.whole(5, 8), draw.whole(4, 6), draw.whole(2, 3)
    h, y, W_down, W_up = (draw.normal(*s, dtype=torch.float32) for s in ((n, d), (n, d), (r, d), (d, r)))
    return partial(_loss, h, y), (W_down, W_up)


SNIP = register(
    Exercise(
        id="adapters-snip",
        points=4,
        difficulty=4,
        minutes=20,
        hints=(
            "Put a factor m in front of a weight and write the loss as a function of m. What is its slope at m = 1?",
            "The chain rule gives ∂L/∂m = ∂L/∂w · w. How much it matters does not depend on the sign.",
            "Let autograd differentiate: make copies with requires_grad_(), call loss(*copies), then "
            "torch.autograd.grad.",
        ),
        inputs=_task,
        secret=_secret_snip,
        reference=snip,
        mutants=(
            Mutant(
                _scored(lambda g, W: g.abs()),
                "this is |g| alone: a weight of 0 with a large gradient can go without changing anything",
            ),
            Mutant(
                _scored(lambda g, W: W.abs()),
                "this is |w|: the score by size, which knows nothing of the task",
            ),
            Mutant(
                _scored(lambda g, W: g * W),
                "the sign is still in it: a weight that matters is one whose going moves the loss, up or down",
            ),
            Mutant(
                _scored(lambda g, W: (g * W).square()),
                "this is the square of the score: the order is the same, but |g w| is asked for",
            ),
            Mutant(
                _scored(lambda g, W: g * W.abs()),
                "the gradient still has its sign: take the absolute value of the product",
            ),
            Mutant(
                _gone,
                "this takes each weight away in turn: exact, but one pass for each weight; the slope needs one in all",
            ),
        ),
        tolerance=1e-5,
    )
)
