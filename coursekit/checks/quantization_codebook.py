r"""The open exercise of notebook 07_quantization: sixteen levels of one's own that lose less than NF4's."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from coursekit.checks.compare import Comparison
from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.quantization import code

#: Weights of a case; how much more a right answer may lose than the course's own, and how far wrong ones keep from it.
WEIGHTS, WORSE, NEAR = 4096, 1.06, 1.02
LEVELS = 16
#: What levels are at most above the least error of weights that all count the same, where they were fitted to that:
#: weighted ones came to 1.21 or more in twelve cases, unweighted ones of 20 rounds to 1.07 or less.
EVEN = 1.1


def squared_error(x: Tensor, levels: Tensor, block: int) -> float:
    r"""Of blocks over their absmax, each weight on the nearest level: squared error over squared size."""
    blocks = x.double().view(-1, block)
    absmax = blocks.abs().amax(1, keepdim=True)
    nearest = torch.bucketize(blocks / absmax, (levels[1:] + levels[:-1]) / 2)
    return ((levels[nearest] * absmax - blocks).square().sum() / x.square().sum()).item()


def fitted(x: Tensor, block: int, start: Tensor | None = None, steps: int = 60, weighted: bool = True) -> Tensor:
    r"""Sixteen levels, ascending, for weights (n,) in blocks.

    Lloyd 1982 and Max 1960: each level is the mean of what is rounded to it, again and again.

    weighted: a weight of a block with a large absmax counts more, for its error is multiplied by the absmax again.
    """
    x, levels = x.double(), _nf4() if start is None else start
    absmax = x.view(-1, block).abs().amax(1, keepdim=True)
    y = (x.view(-1, block) / absmax).flatten()
    counts = absmax.pow(2.0 * weighted).expand(-1, block).flatten()
    for _ in range(steps):
        cell = torch.bucketize(y, (levels[1:] + levels[:-1]) / 2)
        mass, total = (torch.zeros_like(levels).index_add_(0, cell, t) for t in (counts, counts * y))
        levels = torch.where(mass > 0, total / mass.clamp(min=1e-30), levels)
    return levels


def _nf4() -> Tensor:
    return code("nf4").double()


def _equal(x: Tensor, block: int) -> Tensor:
    return torch.linspace(-1, 1, LEVELS, dtype=torch.float64)


def _of_the_normal(x: Tensor, block: int) -> Tensor:
    at = [NormalDist().inv_cdf((i + 0.5) / LEVELS) for i in range(LEVELS)]
    return torch.tensor(at, dtype=torch.float64) / at[-1]


def _as_many_each(x: Tensor, block: int) -> Tensor:
    y = x.view(-1, block) / x.view(-1, block).abs().amax(1, keepdim=True)
    return torch.quantile(y.flatten(), (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)


_UNWEIGHTED = (
    "every weight counts the same here: what counts is its error times the absmax of its block, so weigh each one by "
    "the square of that"
)
_POOR: dict[str, Callable[..., Tensor]] = {
    "this is NF4, the table to beat: fit the levels to the weights that you are given": lambda x, block: _nf4(),
    "these are equal steps, an integer type: put levels where they save error": _equal,
    "these are quantiles of the normal distribution; look at the weights themselves": _of_the_normal,
    "each level is used equally often, which is not the same as a small error: the few large weights count most":
        _as_many_each,
    _UNWEIGHTED: lambda x, block: fitted(x, block, weighted=False),
}  # fmt: skip


def _small_enough(compare: Comparison, given: Any, case: Any, own: Any) -> str | None:
    r"""Right are sixteen levels that lose at most WORSE times what the course's own lose."""
    x, block = case
    if not isinstance(given, Tensor) or given.shape != own.shape or not given.is_floating_point():
        return compare.difference(given, own)  # it says of which kind it is
    given = given.double()
    if not given.isfinite().all():
        return "a level is NaN or infinite"
    if (given.diff() < 0).any():
        return "the levels must ascend"
    reached = squared_error(x, given, block) / squared_error(x, own, block)
    if reached <= WORSE:
        return None
    even = (x.view(-1, block) / x.view(-1, block).abs().amax(1, keepdim=True)).flatten()  # all blocks of one size
    best = squared_error(even, fitted(x, block, weighted=False), block)
    if squared_error(even, given, block) < EVEN * best:
        return _UNWEIGHTED
    return (
        "these levels lose too much"
        + compare.exactly(f": {reached:.2f} times the error of the course's own, at most {WORSE} are asked")
        + "; if they come from rounds of moving and rounding, go on until they stop moving, 60 rounds or so"
    )


#: (powers of the size of negative and positive normal numbers, factor of the positive ones) of a kind: ranges.
_SHAPES = (((0.4, 1.3), (0.15, 0.8)), ((0.9, 1.9), (0.3, 3.0)), ((0.4, 1.4), (1.3, 6.0)))


def _weights(draw: Draw) -> tuple[Tensor, int]:
    r"""Weights of another shape in each case, so that no table serves all. Kind 1 has heavy tails.

    Half of the blocks are smaller and nearly even: whoever counts every weight the same serves these instead. A right
    answer of 20 rounds passes, and one that starts at equal steps.
    """
    powers, factors = _SHAPES[draw.kind]
    while True:
        z, block = draw.normal(WEIGHTS), draw.pick((32, 64, 128))
        below, above, factor = draw.real(*powers), draw.real(*powers), draw.real(*factors)
        x = torch.where(z > 0, factor * z.abs() ** above, -(z.abs() ** below)).view(-1, block)
        small = torch.tensor(draw.order(len(x))[::2])
        even = z.view(-1, block)[small].sign() * draw.uniform(len(small), block) ** draw.real(0.2, 0.6)
        x[small] = x.abs().mean() / draw.real(1, 3) * even
        x = x.flatten()
        best = squared_error(x, fitted(x, block), block)
        wrong = [*(made(x, block) for made in _POOR.values()), fitted(x, block, steps=20, weighted=False)]
        poor = min(squared_error(x, levels, block) for levels in wrong)
        fair = (fitted(x, block, start=_equal(x, block)), fitted(x, block, steps=20))
        honest = max(squared_error(x, levels, block) for levels in fair)
        if poor > NEAR * WORSE * best and honest < WORSE / NEAR * best:
            return x, block


CODEBOOK = Exercise(
    id="quantization-codebook", points=4, difficulty=4, minutes=20,
    secret=_weights, reference=fitted, mutants=_POOR, kinds=3, judge=_small_enough,
)  # fmt: skip
