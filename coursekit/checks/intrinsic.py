r"""The exercises of notebook 06b_intrinsic_dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.core import Exercise, register
from coursekit.checks.draw import Draw

# intrinsic-hadamard ---------------------------------------------------------------------------------------


def hadamard(x: Tensor) -> Tensor:
    r"""H x along the last dimension, halving: the sum of the halves transformed, then their difference."""
    n = x.shape[-1]
    if n == 1:
        return x
    one, other = hadamard(x[..., : n // 2]), hadamard(x[..., n // 2 :])
    return torch.cat([one + other, one - other], dim=-1)


def _one_stage(x: Tensor) -> Tensor:
    one, other = x.chunk(2, dim=-1)
    return torch.cat([one + other, one - other], dim=-1)


def _turned(x: Tensor) -> Tensor:
    if x.shape[-1] == 1:
        return x
    one, other = map(_turned, x.chunk(2, dim=-1))
    return torch.cat([one + other, other - one], dim=-1)


def _interleaved(x: Tensor) -> Tensor:
    if x.shape[-1] == 1:
        return x
    one, other = map(_interleaved, x.chunk(2, dim=-1))
    return torch.stack([one + other, one - other], dim=-1).flatten(-2)


HADAMARD = register(
    Exercise(
        id="intrinsic-hadamard",
        points=3,
        difficulty=3,
        minutes=12,
        hints=(
            "Cut x in two halves, a and b. What are the two halves of H x, in terms of H a and H b?",
            "H a and H b are the same task, half as long: H a + H b comes first, then H a - H b. A vector of length 1 "
            "is its own transform.",
            "x[..., : n // 2] is the first half of every vector; torch.cat([...], dim=-1) joins two halves.",
        ),
        secret=lambda draw: (draw.normal(draw.pick((2, 4, 8)), 2 ** draw.whole(3, 4)),),
        reference=hadamard,
        mutants={
            "this is divided by the root of n, which makes it a rotation; H itself holds only 1 and -1": (
                lambda x: hadamard(x) / x.shape[-1] ** 0.5
            ),
            "this is one stage: the halves themselves have to be transformed as well": _one_stage,
            "the second half has its sign the other way round: H a - H b": _turned,
            "sums and differences are interleaved: all sums come first, then all differences": _interleaved,
            "this transforms along the first dimension; the vectors lie in the last": (
                lambda x: hadamard(x.mT).mT
            ),
        },
        tolerance=1e-8,
    )
)


# intrinsic-fastfood ---------------------------------------------------------------------------------------


def fastfood(v: Tensor, S: Tensor, order: Tensor, G: Tensor) -> Tensor:
    r"""F v: the m slabs H G_k Π H pad(S ⊙ v), one after the other, over n √m."""
    return _slabs(v, S, order, G) / (G.shape[1] * G.shape[0] ** 0.5)


def _spread(v: Tensor, S: Tensor, order: Tensor, n: int) -> Tensor:
    return hadamard(F.pad(S * v, (0, n - len(v))))[order]


def _slabs(v: Tensor, S: Tensor, order: Tensor, G: Tensor) -> Tensor:
    return hadamard(G * _spread(v, S, order, G.shape[1])).flatten()


def _without_last(v: Tensor, S: Tensor, order: Tensor, G: Tensor) -> Tensor:
    m, n = G.shape
    return (G * _spread(v, S, order, n)).flatten() / (n * m**0.5)


def _late_normal(v: Tensor, S: Tensor, order: Tensor, G: Tensor) -> Tensor:
    return (G * fastfood(v, S, order, torch.ones_like(G)).view_as(G)).flatten()


def _slabs_arguments(draw: Draw) -> tuple[Tensor, ...]:
    n, m = draw.pick((8, 16)), draw.whole(2, 5)
    d = draw.whole(2, n // 4 + 1)
    signs = torch.tensor([draw.pick((-1.0, 1.0)) for _ in range(d)], dtype=torch.float64)
    return draw.normal(d), signs, torch.tensor(draw.order(n)), draw.normal(m, n)


FASTFOOD = register(
    Exercise(
        id="intrinsic-fastfood",
        points=3,
        difficulty=3,
        minutes=12,
        hints=(
            "H stretches every vector by the same factor. Which? And how long is the stack of m slabs of one length?",
            "H makes a vector sqrt(n) times as long, G keeps the length on average, m slabs make sqrt(m). Signs and "
            "order change no length.",
            "F.pad(S * v, (0, n - len(v))) fills up with zeros; w[order] shuffles; G * w multiplies every row of G by "
            "w; .flatten() puts the rows one after the other.",
        ),
        secret=_slabs_arguments,
        reference=fastfood,
        mutants={
            "the columns are too long: two H make a vector n times as long, m slabs another sqrt(m)": _slabs,
            "the factor of the m slabs is missing: together they are sqrt(m) times as long as one": (
                lambda v, S, order, G: fastfood(v, S, order, G) * G.shape[0] ** 0.5
            ),
            "this divides by m; lengths of m slabs at right angles add up like sqrt(m)": (
                lambda v, S, order, G: fastfood(v, S, order, G) / G.shape[0] ** 0.5
            ),
            "one H has its factor, the other has none: each stretches by sqrt(n)": (
                lambda v, S, order, G: fastfood(v, S, order, G) * G.shape[1] ** 0.5
            ),
            "S is missing: the signs multiply v before anything else": (
                lambda v, S, order, G: fastfood(v, torch.ones_like(S), order, G)
            ),
            "the permutation is missing, between the first H and G": (
                lambda v, S, order, G: fastfood(v, S, torch.arange(len(order)), G)
            ),
            "this shuffles the other way round: w[order], not w put to the places `order`": (
                lambda v, S, order, G: fastfood(v, S, order.argsort(), G)
            ),
            "G is missing: without it F has no normal numbers in it": (
                lambda v, S, order, G: fastfood(v, S, order, torch.ones_like(G))
            ),
            "G comes before the last H, so that H can mix what G has scaled": _late_normal,
            "the last H is missing": _without_last,
        },
        tolerance=1e-8,
    )
)
