r"""The exercises of notebook 06b_intrinsic_dimension."""

from __future__ import annotations

import math
from statistics import fmean

import torch
from torch import Tensor

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw

# intrinsic-hadamard ---------------------------------------------------------------------------------------


def hadamard(x: Tensor) -> Tensor:
    r"""H x, halving: the sum of the halves transformed, then their difference."""
    if len(x) == 1:
        return x
    one, other = hadamard(x[: len(x) // 2]), hadamard(x[len(x) // 2 :])
    return torch.cat([one + other, one - other])


def _one_stage(x: Tensor) -> Tensor:
    half = len(x) // 2
    return torch.cat([x[:half] + x[half:], x[:half] - x[half:]])


def _turned(x: Tensor) -> Tensor:
    if len(x) == 1:
        return x
    one, other = _turned(x[: len(x) // 2]), _turned(x[len(x) // 2 :])
    return torch.cat([one + other, other - one])


def _interleaved(x: Tensor) -> Tensor:
    if len(x) == 1:
        return x
    one, other = _interleaved(x[: len(x) // 2]), _interleaved(x[len(x) // 2 :])
    return torch.stack([one + other, one - other], dim=1).flatten()


HADAMARD = register(
    Exercise(
        id="intrinsic-hadamard",
        points=3,
        difficulty=3,
        minutes=15,
        hints=(
            "Cut x in two halves, a and b. The first row of blocks of H says H a + H b, the second H a - H b.",
            "H a and H b are the same task, half as long. A vector of length 1 is its own transform.",
            "torch.cat puts two halves one after the other.",
        ),
        inputs=lambda seed: (
            torch.randn(4 * 2**seed, generator=torch.Generator().manual_seed(seed)).double(),
        ),
        secret=lambda draw: (draw.normal(2 ** draw.whole(3, 5)),),
        reference=hadamard,
        mutants=(
            Mutant(
                lambda x: hadamard(x) / len(x) ** 0.5,
                "this is divided by the root of n, which makes it a rotation; H itself holds only 1 and -1",
            ),
            Mutant(_one_stage, "this is one stage: the halves themselves have to be transformed as well"),
            Mutant(_turned, "the second half has its sign the other way round: H a - H b"),
            Mutant(
                _interleaved,
                "sums and differences are interleaved: all sums come first, then all differences",
            ),
        ),
        tolerance=1e-8,
    )
)


# intrinsic-fastfood ---------------------------------------------------------------------------------------


def fastfood(v: Tensor, S: Tensor, order: Tensor, G: Tensor, H: Tensor) -> Tensor:
    r"""One slab of F(v): H G Π H pad(S ⊙ v) / n."""
    return _slab(v, S, order, G, H) / len(H)


def _slab(v: Tensor, S: Tensor, order: Tensor, G: Tensor, H: Tensor) -> Tensor:
    padded = torch.zeros(len(H), dtype=v.dtype)
    padded[: len(v)] = S * v
    return H @ (G * (H @ padded)[order])


def _unsigned(v: Tensor, S: Tensor, order: Tensor, G: Tensor, H: Tensor) -> Tensor:
    return fastfood(v, torch.ones_like(S), order, G, H)


def _without_order(v: Tensor, S: Tensor, order: Tensor, G: Tensor, H: Tensor) -> Tensor:
    return fastfood(v, S, torch.arange(len(H)), G, H)


def _without_last(v: Tensor, S: Tensor, order: Tensor, G: Tensor, H: Tensor) -> Tensor:
    return H @ fastfood(v, S, order, G, H) / len(H)  # H H = n I


def _without_normal(v: Tensor, S: Tensor, order: Tensor, G: Tensor, H: Tensor) -> Tensor:
    return fastfood(v, S, order, torch.ones_like(G), H)


def _late_normal(v: Tensor, S: Tensor, order: Tensor, G: Tensor, H: Tensor) -> Tensor:
    return G * fastfood(v, S, order, torch.ones_like(G), H)


def _slabs_arguments(draw: Draw) -> tuple[Tensor, ...]:
    n = draw.pick((8, 16))
    d = draw.whole(2, n - 2)
    bits = [[(-1) ** (i & j).bit_count() for j in range(n)] for i in range(n)]
    signs = torch.tensor([draw.pick((-1.0, 1.0)) for _ in range(d)], dtype=torch.float64)
    H = torch.tensor(bits, dtype=torch.float64)
    return draw.normal(d), signs, torch.tensor(draw.order(n)), draw.normal(n), H


FASTFOOD = register(
    Exercise(
        id="intrinsic-fastfood",
        points=3,
        difficulty=3,
        minutes=15,
        hints=(
            "Read the formula from the right: signs, zeros up to length n, H, shuffle, G, H, divide.",
            "S * v multiplies entry by entry. padded = torch.zeros(n, dtype=v.dtype); padded[:d] = S * v",
            "w[order] shuffles a vector w. G multiplies entry by entry, too.",
        ),
        inputs=lambda seed: _slabs_arguments(Draw(b"the notebook's", str(seed))),
        secret=_slabs_arguments,
        reference=fastfood,
        mutants=(
            Mutant(_slab, "the factor 1/n is missing: it gives the columns of F a length of about 1"),
            Mutant(_unsigned, "S is missing: the signs multiply v before anything else"),
            Mutant(_without_order, "the permutation is missing, between the first H and G"),
            Mutant(
                lambda v, S, order, G, H: fastfood(v, S, order.argsort(), G, H),
                "this shuffles the other way round: w[order], not w put to the places `order`",
            ),
            Mutant(_without_normal, "G is missing: without it F has no normal numbers in it"),
            Mutant(_late_normal, "G comes before the last H, so that H can mix what G has scaled"),
            Mutant(_without_last, "the last H is missing"),
        ),
        tolerance=1e-8,
    )
)


# intrinsic-dimension --------------------------------------------------------------------------------------

Curve = list[tuple[int, list[float]]]


def dimension(curve: Curve, full: list[float], share: float) -> float:
    r"""Where the mean curve first reaches `share` of full, on a straight line over log d between two tried d."""
    return _crossing(curve, share * fmean(full), math.log, math.exp)


def _crossing(curve: Curve, mark: float, to: object, back: object, mean: object = fmean) -> float:
    points = [(to(d), mean(values)) for d, values in sorted(curve)]  # type: ignore[operator]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if y1 >= mark:
            return float(back(x0 + (x1 - x0) * (mark - y0) / (y1 - y0)))  # type: ignore[operator]
    return math.inf


def _first_tried(curve: Curve, full: list[float], share: float) -> float:
    return float(next(d for d, values in sorted(curve) if fmean(values) >= share * fmean(full)))


def _measured(draw: Draw) -> tuple[Curve, list[float], float]:
    r"""A curve that begins below the mark and ends above it."""
    start, top = draw.real(0.5, 0.6), draw.real(0.82, 0.9)
    ds = [10, 30, 100, 300, 1000]
    rise = sorted(draw.real(0, 1) for _ in range(3))
    heights = [start, *(start + (top - start) * x for x in rise), top]
    curve = [
        (d, [round(height + draw.real(-0.015, 0.015), 4) for _ in range(3)])
        for d, height in zip(ds, heights, strict=True)
    ]
    full = [round(top + draw.real(-0.01, 0.01), 4) for _ in range(3)]
    return [curve[i] for i in draw.order(5)], full, draw.pick((0.85, 0.9, 0.95))


DIMENSION = register(
    Exercise(
        id="intrinsic-dimension",
        points=3,
        difficulty=3,
        minutes=15,
        hints=(
            "The seeds make one number of each d, and one mark. Between which two tried d does the mark lie?",
            "On a straight line, how far the mark is from one mean to the next is how far you go from one log d to the "
            "next.",
            "np.interp on log d, between these two points.",
        ),
        inputs=lambda seed: _measured(Draw(b"the notebook's", str(seed))),
        secret=_measured,
        reference=dimension,
        mutants=(
            Mutant(
                _first_tried, "this is the first tried d above the mark; the curve crosses it before that"
            ),
            Mutant(
                lambda curve, full, share: _crossing(curve, share * fmean(full), float, float),
                "the line is straight over d here; the tried d are spaced evenly in log d, so take that",
            ),
            Mutant(
                lambda curve, full, share: _crossing(
                    curve, share * max(fmean(values) for _, values in curve), math.log, math.exp
                ),
                "the mark is a share of what full fine-tuning reaches, not of the best point of the curve",
            ),
            Mutant(
                lambda curve, full, share: _crossing(curve, share * fmean(full), math.log, math.exp, max),
                "this follows the best seed at each d; take the mean over the seeds",
            ),
            Mutant(
                lambda curve, full, share: _crossing(curve, share * max(full), math.log, math.exp),
                "the mark is measured by the best seed of full fine-tuning; take the mean of its seeds",
            ),
        ),
    )
)
