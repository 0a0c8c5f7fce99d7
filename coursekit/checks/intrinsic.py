r"""The exercises of notebook 06b_intrinsic_dimension."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.notebook.built import FAST, SQUARE, WHOLE

# intrinsic-hadamard ---------------------------------------------------------------------------------------


def _halves(one: Tensor, other: Tensor) -> Tensor:
    return torch.cat([one + other, one - other], dim=-1)


def hadamard(x: Tensor, join: Callable[[Tensor, Tensor], Tensor] = _halves) -> Tensor:
    r"""H x along the last dimension, halving: the sum of the halves transformed, then their difference."""
    n = x.shape[-1]
    if n == 1:
        return x
    return join(hadamard(x[..., : n // 2], join), hadamard(x[..., n // 2 :], join))


#: What is wrong -> a transform with that mistake. Each is made with and without H.
_WRONG_TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "this is divided by the root of n, which makes it a rotation; H itself holds only 1 and -1": (
        lambda x: hadamard(x) / x.shape[-1] ** 0.5
    ),
    "this is one stage: the halves themselves have to be transformed as well": (lambda x: _halves(*x.chunk(2, dim=-1))),
    "the second half has its sign the other way round: H a - H b": (
        lambda x: hadamard(x, lambda one, other: torch.cat([one + other, other - one], dim=-1))
    ),
    "sums and differences are interleaved: all sums come first, then all differences": (
        lambda x: hadamard(x, lambda one, other: torch.stack([one + other, one - other], dim=-1).flatten(-2))
    ),
    "this transforms along the first dimension; the vectors lie in the last": (
        lambda x: hadamard(x.transpose(0, -1)).transpose(0, -1)
    ),
}
#: What is said of tensors on the way to H, and of as many steps as H has entries.
DENSE = "this makes H, n² numbers; halve the vector instead"
SLOW = "this works as long as multiplying by H, n² steps; halve the vector, and transform each half only once"


def _transform(wrong: Callable[[Tensor], Tensor], work: str) -> Callable[[Tensor], tuple[Tensor, str]]:
    return lambda x: (wrong(x), work)


def _secret_hadamard(draw: Draw) -> tuple[Tensor]:
    n, batch = 2 ** draw.whole(3, 4), [draw.pick((2, 4, 8)) for _ in range(draw.kind)]
    return (draw.normal(*batch, n),)


HADAMARD = Exercise(
    id="intrinsic-hadamard", points=3, difficulty=3, minutes=12,
    secret=_secret_hadamard, reference=_transform(hadamard, FAST), part=hadamard,
    mutants={
        DENSE: _transform(hadamard, WHOLE),
        SLOW: _transform(hadamard, SQUARE),
        **{message: _transform(wrong, FAST) for message, wrong in _WRONG_TRANSFORMS.items()},
        **{
            f"{message}. And {also}": _transform(wrong, work)
            for also, work in ((DENSE, WHOLE), (SLOW, SQUARE))
            for message, wrong in _WRONG_TRANSFORMS.items()
        },
    },
    tolerance=1e-8, kinds=3,
)  # fmt: skip


# intrinsic-fastfood ---------------------------------------------------------------------------------------


def fastfood(v: Tensor, S: Tensor, order: Tensor, G: Tensor) -> Tensor:
    r"""F v: the m slabs H G_k Π H pad(S ⊙ v), one after the other, over n √m."""
    return _slabs(v, S, order, G) / (G.shape[1] * G.shape[0] ** 0.5)


def _spread(v: Tensor, S: Tensor, order: Tensor, n: int) -> Tensor:
    return hadamard(F.pad(S * v, (0, n - len(v))))[order]


def _slabs(v: Tensor, S: Tensor, order: Tensor, G: Tensor) -> Tensor:
    return hadamard(G * _spread(v, S, order, G.shape[1])).flatten()


def _slabs_arguments(draw: Draw) -> tuple[Tensor, ...]:
    n, m = draw.pick((8, 16)), draw.whole(2, 5)
    d = draw.whole(2, n // 4 + 1)
    signs = torch.tensor([draw.pick((-1.0, 1.0)) for _ in range(d)], dtype=torch.float64)
    return draw.normal(d), signs, torch.tensor(draw.order(n)), draw.normal(m, n)


FASTFOOD = Exercise(
    id="intrinsic-fastfood", points=3, difficulty=3, minutes=12,
    secret=_slabs_arguments, reference=fastfood,
    mutants={
        "the columns are too long: two H make a vector n times as long, m slabs another sqrt(m)": _slabs,
        "the factor of the m slabs is missing: together they are sqrt(m) times as long as one":
            lambda v, S, order, G: fastfood(v, S, order, G) * G.shape[0] ** 0.5,
        "this divides by m; lengths of m slabs at right angles add up like sqrt(m)":
            lambda v, S, order, G: fastfood(v, S, order, G) / G.shape[0] ** 0.5,
        "one H has its factor, the other has none: each stretches by sqrt(n)":
            lambda v, S, order, G: fastfood(v, S, order, G) * G.shape[1] ** 0.5,
        "S is missing: the signs multiply v before anything else":
            lambda v, S, order, G: fastfood(v, torch.ones_like(S), order, G),
        "the permutation is missing, between the first H and G":
            lambda v, S, order, G: fastfood(v, S, torch.arange(len(order)), G),
        "this shuffles the other way round: w[order], not w put to the places `order`":
            lambda v, S, order, G: fastfood(v, S, order.argsort(), G),
        "G is missing: without it F has no normal numbers in it":
            lambda v, S, order, G: fastfood(v, S, order, torch.ones_like(G)),
        "G comes before the last H, so that H can mix what G has scaled":
            lambda v, S, order, G: (G * fastfood(v, S, order, torch.ones_like(G)).view_as(G)).flatten(),
        "the last H is missing": lambda v, S, order, G: (
            (G * _spread(v, S, order, G.shape[1])).flatten() / (G.shape[1] * G.shape[0] ** 0.5)
        ),
    },
    tolerance=1e-8,
)  # fmt: skip


# intrinsic-rank -------------------------------------------------------------------------------------------


def smallest_rank(W: Tensor, share: float) -> tuple[int, float]:
    r"""(smallest rank whose nearest matrix keeps `share` of W's squared length, how far that matrix is from W)."""
    return _with_error(W, _reached(torch.linalg.svdvals(W) ** 2, share))


def _reached(values: Tensor, share: float) -> int:
    r"""How many of `values`, from the first on, hold `share` of their sum."""
    return int((values.cumsum(0) / values.sum() < share).sum()) + 1


def _with_error(W: Tensor, r: int) -> tuple[int, float]:
    return r, float(torch.linalg.svdvals(W)[r:].square().sum().sqrt())


def _off(by: int) -> Callable[[Tensor, float], tuple[int, float]]:
    return lambda W, share: _with_error(W, smallest_rank(W, share)[0] + by)


def _far(error: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, float], tuple[int, float]]:
    r"""The right rank with another distance, made of the singular values and r."""

    def wrong(W: Tensor, share: float) -> tuple[int, float]:
        r = smallest_rank(W, share)[0]
        return r, float(error(torch.linalg.svdvals(W), r))

    return wrong


def _secret_rank(draw: Draw) -> tuple[Tensor, float]:
    while True:
        short, long = draw.whole(6, 8), draw.whole(9, 11)
        W, share = draw.normal(*((short, long), (long, short))[draw.kind]), draw.real(0.7, 0.9, digits=2)
        squares = torch.linalg.svdvals(W) ** 2
        kept = squares.cumsum(0) / squares.sum()
        if (kept - share).abs().min() > 0.01 and 2 <= _reached(squares, share) <= len(kept) - 2:
            return W, share


RANK = Exercise(
    id="intrinsic-rank", points=2, difficulty=2, minutes=6,
    secret=_secret_rank, reference=smallest_rank,
    mutants={
        "these are shares of the singular values themselves; a squared length is the sum of their squares":
            lambda W, share: _with_error(W, _reached(torch.linalg.svdvals(W), share)),
        "this is a share of W's length; asked is one of its squared length":
            lambda W, share: _with_error(W, _reached(torch.linalg.svdvals(W) ** 2, share**2)),
        "the rank is one too small: so many pieces still keep less than the share": _off(-1),
        "the rank is one too large: one piece fewer already keeps the share": _off(1),
        "the rank is right; the distance is the root of the sum of squares, and this is without the root":
            _far(lambda s, r: s[r:].square().sum()),
        "the rank is right; this is the largest singular value that is dropped; all that are dropped count":
            _far(lambda s, r: s[r]),
        "the rank is right; this adds up the dropped singular values; it is their squares that add up":
            _far(lambda s, r: s[r:].sum()),
        "the rank is right; this is the length of what is kept, and asked is that of what is dropped":
            _far(lambda s, r: s[:r].square().sum().sqrt()),
        "the rank is right; this is the distance as a share of W's length, and asked is the distance itself":
            _far(lambda s, r: s[r:].square().sum().sqrt() / s.square().sum().sqrt()),
    },
    kinds=2,
)  # fmt: skip
