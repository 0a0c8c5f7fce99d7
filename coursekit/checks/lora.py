r"""The exercises of notebook 06_lora."""

from __future__ import annotations

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
    rows, columns = draw.whole(4, 8), draw.whole(4, 8)
    r = draw.whole(1, min(rows, columns) - 1)  # at full rank there is nothing to cut
    return draw.normal(rows, columns), r


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
        tolerance=1e-8,
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


# lora-merge -----------------------------------------------------------------------------------------------


def _factors(seed: int) -> tuple[Tensor, Tensor, Tensor, float]:
    _, W, _, A, B, alpha = _layer(seed)
    return W, A, B, alpha


def merge(W: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    r"""W + (alpha / r) B A."""
    return W + (alpha / A.shape[0]) * (B @ A)


def _secret_merge(draw: Draw) -> tuple[Tensor, Tensor, Tensor, float]:
    _, W, _, A, B, alpha = _secret_forward(draw)
    return W, A, B, alpha


MERGE = register(
    Exercise(
        id="lora-merge",
        points=2,
        difficulty=1,
        minutes=5,
        hints=(
            "Ask which single matrix gives W x + (alpha / r) B A x for every x.",
            "B @ A has the shape of W: (d_out, r)(r, d_in) -> (d_out, d_in).",
        ),
        inputs=_factors,
        secret=_secret_merge,
        reference=merge,
        mutants=(
            Mutant(
                lambda W, A, B, alpha: W + B @ A,
                "the scale is missing: merge what the forward pass adds, alpha / r times B A",
            ),
            Mutant(lambda W, A, B, alpha: W + alpha * (B @ A), "the scale is alpha / r, not alpha"),
            Mutant(
                lambda W, A, B, alpha: W + alpha / A.shape[1] * (B @ A),
                "r is the number of rows of A, A.shape[0]; A.shape[1] is d_in",
            ),
            Mutant(
                lambda W, A, B, alpha: W - (alpha / A.shape[0]) * (B @ A),
                "this takes the update away; that is unmerging",
            ),
            Mutant(
                lambda W, A, B, alpha: (alpha / A.shape[0]) * (B @ A),
                "this is the update alone; the frozen weight is still needed",
            ),
            Mutant(
                lambda W, A, B, alpha: (alpha / A.shape[0]) * (W + B @ A),
                "this scales W too; only B A is scaled",
            ),
        ),
    )
)


# lora-count -----------------------------------------------------------------------------------------------


def _sizes(seed: int) -> tuple[int, int, int, int]:
    return (12288, 12288, 8, 192) if seed == 0 else (576, 192 * seed, 4 * seed, 30)


def count(d_in: int, d_out: int, r: int, matrices: int) -> int:
    r"""matrices * r * (d_in + d_out)."""
    return matrices * r * (d_in + d_out)


def _secret_count(draw: Draw) -> tuple[int, int, int, int]:
    return 64 * draw.whole(4, 200), 64 * draw.whole(4, 200), draw.whole(2, 64), draw.whole(2, 200)


COUNT = register(
    Exercise(
        id="lora-count",
        points=1,
        difficulty=1,
        minutes=5,
        hints=("A is (r, d_in) and B is (d_out, r): how many numbers are that?",),
        inputs=_sizes,
        secret=_secret_count,
        reference=count,
        mutants=(
            Mutant(
                lambda d_in, d_out, r, matrices: matrices * d_in * d_out,
                "this counts the frozen matrices, not A and B",
            ),
            Mutant(
                lambda d_in, d_out, r, matrices: matrices * r * d_in, "this counts A only; B trains as well"
            ),
            Mutant(
                lambda d_in, d_out, r, matrices: matrices * r * d_in * d_out,
                "A and B lie beside each other: their sizes add, r*d_in + d_out*r",
            ),
            Mutant(
                lambda d_in, d_out, r, matrices: r * (d_in + d_out),
                "this is one matrix; the model has several",
            ),
        ),
        tolerance=0.0,
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
