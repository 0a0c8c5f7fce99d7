r"""The exercises of notebook 06_lora."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# lora-truncate --------------------------------------------------------------------------------------------


def _matrix(seed: int) -> tuple[Tensor, int]:
    return torch.randn(6, 4, generator=_random(seed), dtype=torch.float64), 1 + seed


def truncate(W: Tensor, r: int) -> Tensor:
    r"""The best rank-r approximation: the r largest singular values, the rest set to 0 (Eckart and Young 1936)."""
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return (U[:, :r] * S[:r]) @ Vh[:r]


def _smallest(W: Tensor, r: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return (U[:, -r:] * S[-r:]) @ Vh[-r:]


def _without_values(W: Tensor, r: int) -> Tensor:
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] @ Vh[:r]


def _columns_of_Vh(W: Tensor, r: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return (U[:, :r] * S[:r]) @ Vh[:, :r].T


def _one_too_many(W: Tensor, r: int) -> Tensor:
    return truncate(W, r + 1)


def _roots(W: Tensor, r: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return (U[:, :r] * S[:r].sqrt()) @ Vh[:r]


def _secret_truncate(draw: Draw) -> tuple[Tensor, int]:
    while True:
        rows, columns = draw.whole(4, 8), draw.whole(4, 8)
        r = draw.whole(1, min(rows, columns) - 1)  # at full rank there is nothing to cut
        W = draw.normal(rows, columns)
        S = torch.linalg.svdvals(W)
        if S[r - 1] > 1.15 * S[r]:  # where the two are nearly equal, single precision mixes their vectors
            return W, r


TRUNCATE = register(
    Exercise(
        id="lora-truncate",
        points=2,
        difficulty=2,
        minutes=10,
        hints=(
            "torch.linalg.svd(W, full_matrices=False) gives U, S, Vh, with the singular values S from large to small.",
            "Keep the first r columns of U, the first r values of S and the first r rows of Vh.",
            "(U[:, :r] * S[:r]) multiplies every column by its own singular value; one product with Vh[:r] is left.",
        ),
        inputs=_matrix,
        secret=_secret_truncate,
        reference=truncate,
        mutants=(
            Mutant(
                _smallest,
                "these are the r smallest singular values; the largest carry the matrix, and they come first",
            ),
            Mutant(
                _without_values,
                "the singular values are missing: U and Vh only give directions, S says how much of each",
            ),
            Mutant(
                _columns_of_Vh,
                "torch gives V already transposed: the directions are the rows of Vh, so take Vh[:r]",
            ),
            Mutant(
                _one_too_many, "one direction too many: slices end before their end, S[:r] holds r values"
            ),
            Mutant(
                _roots,
                "each singular value is there only as its square root: give S to one of the factors whole",
            ),
        ),
        tolerance=1e-4,  # small entries of a product of singular vectors, worked out in fp32
    )
)


# lora-forward ---------------------------------------------------------------------------------------------


def _layer(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    random = _random(seed)
    x, W, b = (torch.randn(*s, generator=random) for s in ((2, 3, 8), (6, 8), (6,)))
    r = 2 + seed
    A, B = torch.randn(r, 8, generator=random), torch.randn(6, r, generator=random)
    return x, W, b, A, B, 7.0


def forward(x: Tensor, W: Tensor, b: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    r"""h = W x + b + (alpha / r) B A x."""
    return F.linear(x, W, b) + (alpha / A.shape[0]) * F.linear(F.linear(x, A), B)


def _secret_forward(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    d_in, d_out, r = draw.whole(6, 9), draw.whole(5, 9), draw.whole(2, 4)
    shapes = ((2, 3, d_in), (d_out, d_in), (d_out,), (r, d_in), (d_out, r))
    return *(draw.normal(*shape, dtype=torch.float32) for shape in shapes), draw.real(5, 20, digits=1)


FORWARD = register(
    Exercise(
        id="lora-forward",
        points=3,
        difficulty=2,
        minutes=10,
        hints=(
            "Three shapes decide everything: x is (batch, seq, d_in), A is (r, d_in), B is (d_out, r).",
            "F.linear(x, W, b) is W x + b for every token. F.linear(x, A) has r numbers for every token.",
            "Only the low-rank branch is scaled, by alpha divided by r; r is the number of rows of A.",
        ),
        inputs=_layer,
        secret=_secret_forward,
        reference=forward,
        mutants=(
            Mutant(
                lambda x, W, b, A, B, alpha: (
                    (alpha / A.shape[0]) * (F.linear(x, W, b) + F.linear(F.linear(x, A), B))
                ),
                "this scales the frozen output too, as the slide does; only the branch B A x is scaled",
            ),
            Mutant(
                lambda x, W, b, A, B, alpha: F.linear(x, W, b) + F.linear(F.linear(x, A), B),
                "the scale is missing: the branch is multiplied by alpha / r",
            ),
            Mutant(
                lambda x, W, b, A, B, alpha: F.linear(x, W, b) + alpha * F.linear(F.linear(x, A), B),
                "the scale is alpha / r, not alpha",
            ),
            Mutant(
                lambda x, W, b, A, B, alpha: (
                    F.linear(x, W, b) + alpha / A.shape[1] * F.linear(F.linear(x, A), B)
                ),
                "r is the number of rows of A, A.shape[0]; A.shape[1] is d_in",
            ),
            Mutant(
                lambda x, W, b, A, B, alpha: (
                    F.linear(x, W, b) + (A.shape[0] / alpha) * F.linear(F.linear(x, A), B)
                ),
                "the scale is upside down: alpha / r, not r / alpha",
            ),
            Mutant(
                lambda x, W, b, A, B, alpha: (
                    F.linear(x, W, b) + alpha / A.shape[0] ** 0.5 * F.linear(F.linear(x, A), B)
                ),
                "this is rsLoRA, which divides by the root of r; LoRA divides by r",
            ),
            Mutant(
                lambda x, W, b, A, B, alpha: (
                    F.linear(x, W) + (alpha / A.shape[0]) * F.linear(F.linear(x, A), B)
                ),
                "the bias of the frozen layer is missing",
            ),
            Mutant(
                lambda x, W, b, A, B, alpha: (alpha / A.shape[0]) * F.linear(F.linear(x, A), B),
                "the frozen layer's own answer W x + b is missing",
            ),
        ),
    )
)


# lora-linear ----------------------------------------------------------------------------------------------


def _linear(
    W: Tensor, b: Tensor, A: Tensor, B: Tensor, x: Tensor, alpha: float
) -> tuple[bool, str, int, Tensor]:
    r"""What the stub's `lora_linear` finds of a right LoRALinear: silent at the start, A's start, trained, h."""
    return True, "random", A.numel() + B.numel(), forward(x, W, b, A, B, alpha)


def _inputs_linear(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    x, W, b, A, B, alpha = _layer(seed)
    return W, b, A, B, x, alpha


def _secret_linear(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    x, W, b, A, B, alpha = _secret_forward(draw)
    return W, b, A, B, x, alpha


def _found(
    silent: bool = True, start: str = "random", base: bool = False, own: bool = True, scale: str = ""
) -> Any:
    r"""What is found of a layer with a mistake. start: of A; base: W and b train as well; own: A and B train."""

    def mutant(W: Tensor, b: Tensor, A: Tensor, B: Tensor, x: Tensor, alpha: float) -> Any:
        trained = (W.numel() + b.numel()) * base + (A.numel() + B.numel()) * own
        frozen, r = F.linear(x, W, b), len(A)
        update = F.linear(F.linear(x, A), B)
        h = {
            "": frozen + alpha / r * update,
            "all": alpha / r * (frozen + update),
            "none": frozen + update,
            "alpha": frozen + alpha * update,
        }[scale]
        return silent, start, trained, h

    return mutant


LINEAR = register(
    Exercise(
        id="lora-linear",
        points=3,
        difficulty=3,
        minutes=15,
        hints=(
            "In __init__: base.requires_grad_(False) freezes W and b; base.in_features and base.out_features are d_in "
            "and d_out.",
            "Only an nn.Parameter is found by an optimizer. A: random numbers of size 1 / sqrt(d_in), such as "
            "torch.randn(r, d_in) / d_in ** 0.5; B: torch.zeros(d_out, r).",
            "In forward: your lora_forward, with self.base.weight, self.base.bias, self.A, self.B and self.alpha.",
        ),
        inputs=_inputs_linear,
        secret=_secret_linear,
        reference=_linear,
        mutants=(
            Mutant(
                _found(silent=False),
                "at the start the layer must give what the base layer gives: start B at 0, and A at random",
            ),
            Mutant(
                _found(start="zero"),
                "A starts at 0: with B at 0 as well neither ever gets a gradient; start A at random",
            ),
            Mutant(
                _found(start="one direction"),
                "the rows of A are all the same direction, so B A starts out with rank 1: draw every entry at random",
            ),
            Mutant(
                _found(start="too large"),
                "A's entries are too large: a sum of d_in of them grows with sqrt(d_in), so divide by that",
            ),
            Mutant(
                _found(start="too small"),
                "A's entries are too small: B's first gradients are as small as they are; 1 / sqrt(d_in) is usual",
            ),
            Mutant(
                _found(base=True), "the base layer still trains: freeze it with base.requires_grad_(False)"
            ),
            Mutant(
                _found(own=False),
                "A and B are not trained: a tensor is a parameter only as nn.Parameter(tensor)",
            ),
            Mutant(
                _found(base=True, own=False),
                "the base layer trains and A and B do not: freeze the one, make the others nn.Parameter",
            ),
            Mutant(
                _found(silent=False, scale="all"),
                "this scales the frozen output too, as the slide does; only the branch B A x is scaled",
            ),
            Mutant(_found(scale="none"), "the scale is missing: the branch is multiplied by alpha / r"),
            Mutant(_found(scale="alpha"), "the scale is alpha / r, not alpha"),
        ),
    )
)


# lora-gradients -------------------------------------------------------------------------------------------


def _backward(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    random = _random(seed)
    r = 2 + seed
    g, x = torch.randn(5, 6, generator=random), torch.randn(5, 8, generator=random)
    return g, x, torch.randn(r, 8, generator=random), torch.randn(6, r, generator=random), 1.5


def gradients(g: Tensor, x: Tensor, A: Tensor, B: Tensor, s: float) -> tuple[Tensor, Tensor]:
    r"""dL/dA = s (g B)^T x and dL/dB = s g^T (x A^T), from g = dL/dh."""
    return s * (g @ B).T @ x, s * g.T @ (x @ A.T)


def _secret_gradients(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    n, d_in, d_out, r = draw.whole(4, 7), draw.whole(6, 9), draw.whole(5, 9), draw.whole(2, 4)
    shapes = ((n, d_out), (n, d_in), (r, d_in), (d_out, r))
    return *(draw.normal(*shape, dtype=torch.float32) for shape in shapes), draw.real(1.2, 3)


GRADIENTS = register(
    Exercise(
        id="lora-gradients",
        points=4,
        difficulty=4,
        minutes=20,
        hints=(
            "A gradient has the shape of its matrix: dA is (r, d_in), dB is (d_out, r). Only one product fits each.",
            "h = s B (A x). For one token dL/dB = s g (A x)^T; a batch adds its tokens up, which is a matrix product.",
            "For A, the gradient first goes back through B: (n, d_out)(d_out, r) -> (n, r). Then it meets x.",
        ),
        inputs=_backward,
        secret=_secret_gradients,
        reference=gradients,
        mutants=(
            Mutant(
                lambda g, x, A, B, s: ((g @ B).T @ x, g.T @ (x @ A.T)),
                "the scale s is missing: it is part of h, so it is part of both gradients",
            ),
            Mutant(
                lambda g, x, A, B, s: (s * (g @ B).T @ x / len(x), s * g.T @ (x @ A.T) / len(x)),
                "this averages over the tokens; the mean, if there is one, is in g already, so add them up",
            ),
            Mutant(
                lambda g, x, A, B, s: (s * s * (g @ B).T @ x, s * s * g.T @ (x @ A.T)),
                "the scale s is in there twice",
            ),
            Mutant(
                lambda g, x, A, B, s: (s * g.T @ (x @ A.T), s * (g @ B).T @ x),
                "the two gradients are in the wrong order: dA first",
            ),
            Mutant(
                lambda g, x, A, B, s: (torch.zeros_like(A), s * g.T @ (x @ A.T)),
                "dA is 0 only on the first step, while B is 0; here B is not 0",
            ),
        ),
    )
)


# lora-sweep -----------------------------------------------------------------------------------------------

#: One run of a sweep: r, alpha, learning rate, seed, validation accuracy, test accuracy.
Run = tuple[int, int, float, int, float, float]


def _of(runs: list[Run], r: int, alpha: float, lr: float | None = None) -> list[Run]:
    return [run for run in runs if run[:2] == (r, alpha) and lr in (None, run[2])]


def _rates(runs: list[Run]) -> list[float]:
    return sorted({run[2] for run in runs})


def _best(runs: list[Run], column: int = 4) -> list[Run]:
    r"""The runs at the learning rate that is best by the mean over its seeds."""
    rates = {lr: [run for run in runs if run[2] == lr] for lr in _rates(runs)}
    return max(rates.values(), key=lambda group: fmean(run[column] for run in group))


def _test(runs: list[Run]) -> float:
    return fmean(run[5] for run in runs)


def _scales(runs: list[Run], r: int) -> set[float]:
    return {run[1] / run[0] for run in runs if run[0] == r}


def _at_equal_scale(runs: list[Run], low: int, high: int, score: Callable[[list[Run]], float]) -> float:
    shared = sorted(_scales(runs, low) & _scales(runs, high))
    return fmean(score(_of(runs, high, s * high)) - score(_of(runs, low, s * low)) for s in shared)


def sweep(runs: list[Run], low: int, high: int) -> float:
    r"""What rank `high` gains over rank `low`: at equal alpha/r, each at its own best learning rate."""
    return _at_equal_scale(runs, low, high, lambda group: _test(_best(group)))


def _at_equal_alpha(runs: list[Run], low: int, high: int) -> float:
    alphas = sorted({run[1] for run in runs})
    return fmean(_test(_best(_of(runs, high, a))) - _test(_best(_of(runs, low, a))) for a in alphas)


def _best_of_each(runs: list[Run], low: int, high: int) -> float:
    one, other = (
        max((_best(_of(runs, r, a)) for a in {x[1] for x in runs}), key=lambda g: fmean(x[4] for x in g))
        for r in (low, high)
    )
    return _test(other) - _test(one)


def _one_rate(runs: list[Run], low: int, high: int) -> float:
    lr = _best(runs)[0][2]
    return _at_equal_scale(runs, low, high, lambda group: _test([run for run in group if run[2] == lr]))


def _grid_of_runs(draw: Draw) -> tuple[list[Run], int, int]:
    r"""Two ranks, two alphas, three learning rates, three seeds: only one alpha/r is there with both ranks."""
    low = draw.pick((1, 2, 4, 8))
    high, scale = low * draw.pick((4, 8, 16)), draw.pick((1, 2, 4))
    runs = []
    for r, a in ((low, low), (low, high), (high, low), (high, high)):
        while True:
            rates = {lr: _three_seeds(draw) for lr in (0.001, 0.003, 0.01)}
            sums = sorted(
                round(1000 * sum(validation for validation, _ in pairs)) for pairs in rates.values()
            )
            if min(sums[1] - sums[0], sums[2] - sums[1]) >= 2:  # no two rates are equally good
                break
        runs += [
            (r, scale * a, lr, seed, *pair) for lr, pairs in rates.items() for seed, pair in enumerate(pairs)
        ]
    return [runs[i] for i in draw.order(len(runs))], low, high


def _three_seeds(draw: Draw) -> list[tuple[float, float]]:
    middle = draw.real(0.70, 0.80)
    return [
        (round(middle + draw.real(-0.05, 0.05), 3), round(middle + draw.real(-0.05, 0.05), 3))
        for _ in range(3)
    ]


SWEEP = register(
    Exercise(
        id="lora-sweep",
        points=4,
        difficulty=4,
        minutes=25,
        hints=(
            "To compare ranks alone, something has to be held fixed. This exercise holds alpha / r: which two of the "
            "four settings (r, alpha) share it?",
            "The learning rate belongs to a setting as much as r does. Compare each at its own best.",
            "Best by what? A rate is chosen on validation accuracy, by the mean over its seeds; test accuracy is for "
            "the comparison alone.",
        ),
        inputs=lambda seed: _grid_of_runs(Draw(b"the notebook's", str(seed))),
        secret=_grid_of_runs,
        reference=sweep,
        mutants=(
            Mutant(
                _at_equal_alpha,
                "at equal alpha the larger rank has the smaller scale alpha / r: this compares two things at once",
            ),
            Mutant(
                _best_of_each,
                "the best setting of each rank has its own alpha / r: what differs is then not the rank alone",
            ),
            Mutant(
                lambda runs, low, high: _at_equal_scale(runs, low, high, lambda g: _test(_best(g, 5))),
                "the learning rate was chosen on test accuracy: that is what the validation sentences are for",
            ),
            Mutant(
                lambda runs, low, high: _at_equal_scale(
                    runs, low, high, lambda g: max(g, key=lambda run: run[4])[5]
                ),
                "this takes the luckiest single run: choose the learning rate by the mean over the seeds",
            ),
            Mutant(_one_rate, "both ranks got the same learning rate: give each the one that is best for it"),
            Mutant(
                lambda runs, low, high: _at_equal_scale(runs, low, high, _test),
                "this averages over all learning rates, the bad ones as well: choose the best for each setting",
            ),
            Mutant(
                lambda runs, low, high: _at_equal_scale(
                    runs, low, high, lambda g: fmean(run[4] for run in _best(g))
                ),
                "these are validation accuracies, which chose the learning rate and so flatter it: report test",
            ),
            Mutant(
                lambda runs, low, high: -sweep(runs, low, high),
                "the sign is the other way round: the question is what the higher rank gains",
            ),
        ),
    )
)
