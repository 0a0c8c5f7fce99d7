r"""The exercises of notebook 06_lora, and the one of 06b_intrinsic_dimension that is worked out on paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.checks.numeric import Numeric

# lora-truncate --------------------------------------------------------------------------------------------


def truncate(W: Tensor, r: int) -> Tensor:
    r"""The best rank-r approximation: the r largest singular values, the rest set to 0 (Eckart and Young 1936)."""
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return (U[:, :r] * S[:r]) @ Vh[:r]


def _cut(made: Callable[..., Tensor], whole: bool = False) -> Callable[[Tensor, int], Tensor]:
    r"""Another matrix made of W's singular value decomposition and r; whole: with square U and V."""
    return lambda W, r: made(*torch.linalg.svd(W, full_matrices=whole), r)


def _secret_truncate(draw: Draw) -> tuple[Tensor, int]:
    r"""Kind 0: wide. Kind 1: tall."""
    while True:
        rows, columns = draw.whole(4, 8), draw.whole(4, 8)
        if rows == columns or (rows > columns) != draw.kind:  # never square: a transposed answer shows in its shape
            continue
        r = draw.whole(1, min(rows, columns) - 1)  # at full rank there is nothing to cut
        W = draw.normal(rows, columns)
        S = torch.linalg.svdvals(W)
        if S[r - 1] > 1.15 * S[r]:  # where the two are nearly equal, single precision mixes their vectors
            return W, r


TRUNCATE = Exercise(
    id="lora-truncate", points=2, difficulty=2, minutes=10,
    secret=_secret_truncate, reference=truncate,
    mutants={
        "these are the r smallest singular values; the largest carry the matrix, and they come first":
            _cut(lambda U, S, Vh, r: (U[:, -r:] * S[-r:]) @ Vh[-r:]),
        "the singular values are missing: U and Vh only give directions, S says how much of each":
            _cut(lambda U, S, Vh, r: U[:, :r] @ Vh[:r]),
        "V is cut along the wrong axis: its directions are the rows of torch.linalg.svd's Vh, so take Vh[:r], and "
        "the columns of torch.svd's V, so take V[:, :r].T": _cut(lambda U, S, Vh, r: (U[:, :r] * S[:r]) @ Vh[:, :r].T),
        "V is cut along the wrong axis: torch.linalg.svd's Vh has the directions in its rows, so take Vh[:r]":
            _cut(lambda U, S, Vh, r: (U[:, :r] * S[:r]) @ Vh[:, :r].T, whole=True),
        "one direction too many: slices end before their end, S[:r] holds r values": lambda W, r: truncate(W, r + 1),
        "each singular value is there only as its square root: give S to one of the factors whole":
            _cut(lambda U, S, Vh, r: (U[:, :r] * S[:r].sqrt()) @ Vh[:r]),
    },
    tolerance=1e-4,  # small entries of a product of singular vectors, worked out in fp32
    kinds=2,
)  # fmt: skip


# lora-linear ----------------------------------------------------------------------------------------------


class LoRALinear(nn.Module):
    r"""A frozen linear layer with B A x, times alpha / r, beside it; A: (r, in), B: (out, r)."""

    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__()
        self.base, self.alpha = base.requires_grad_(False), alpha
        self.A = nn.Parameter(torch.randn(r, base.in_features) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, r))

    def forward(self, x: Tensor) -> Tensor:
        r"""(*batch, in) -> (*batch, out)."""
        return self.base(x) + self.alpha / len(self.A) * (x @ self.A.T @ self.B.T)


def _secret_linear(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    d_in, d_out, r = draw.whole(6, 9), draw.whole(5, 9), draw.whole(2, 8)
    shapes = ((d_out, d_in), (d_out,), (r, d_in), (d_out, r), (2, 3, d_in))
    return *(draw.normal(*shape, dtype=torch.float32) for shape in shapes), draw.real(5, 20, digits=1)


def _found(
    silent: bool = True, start: str = "random", base: bool = False, own: str = "AB", scale: str = "", bias: bool = False
) -> Any:
    r"""What the stub's `lora_linear` finds of a layer: silent at the start, A's start, trained, h. With a mistake:
    base, W and b train too; bias, b alone; own, which of A and B train.
    """

    def mutant(W: Tensor, b: Tensor, A: Tensor, B: Tensor, x: Tensor, alpha: float) -> Any:
        trained = (
            (W.numel() + b.numel()) * base + b.numel() * bias + A.numel() * ("A" in own) + B.numel() * ("B" in own)
        )
        frozen, (r, d_in) = F.linear(x, W, b), A.shape
        update = F.linear(F.linear(x, A), B)
        h = {
            "": frozen + alpha / r * update,
            "all": alpha / r * (frozen + update),
            "none": frozen + update,
            "alpha": frozen + alpha * update,
            "d_in": frozen + alpha / d_in * update,
            "root": frozen + alpha / r**0.5 * update,
            "no bias": F.linear(x, W) + alpha / r * update,
            "alone": alpha / r * update,
        }[scale]
        return silent, start, trained, h

    return mutant


LINEAR = Exercise(
    id="lora-linear", points=4, difficulty=3, minutes=15,
    secret=_secret_linear, reference=_found(), part=LoRALinear,
    parts=("whether it starts as the base layer", "how A starts", "how many numbers train", "its output"),
    mutants={
        "at the start the layer must give what the base layer gives: start B at 0, and A at random":
            _found(silent=False),
        "A starts at 0: with B at 0 as well neither ever gets a gradient; start A at random": _found(start="zero"),
        "the rows of A are all the same direction, so B A starts out with rank 1: draw every entry at random":
            _found(start="one direction"),
        "A's entries are too large: a sum of d_in of them grows with sqrt(d_in), so divide by that":
            _found(start="too large"),
        "A's entries are too small: B's first gradients are as small as they are; 1 / sqrt(d_in) is usual":
            _found(start="too small"),
        "the base layer still trains: freeze it with base.requires_grad_(False)": _found(base=True),
        "the base layer's bias still trains: base.requires_grad_(False) freezes weight and bias": _found(bias=True),
        "A is not trained: a tensor is a parameter only as nn.Parameter(tensor)": _found(own="B"),
        "B is not trained: a tensor is a parameter only as nn.Parameter(tensor)": _found(own="A"),
        "A and B are not trained: a tensor is a parameter only as nn.Parameter(tensor)": _found(own=""),
        "the base layer trains and A and B do not: freeze the one, make the others nn.Parameter":
            _found(base=True, own=""),
        "this scales the frozen output too, as the slide does; only the branch B A x is scaled":
            _found(silent=False, scale="all"),
        "the scale is missing: the branch is multiplied by alpha / r": _found(scale="none"),
        "the scale is alpha / r, not alpha": _found(scale="alpha"),
        "r is the number of rows of A, A.shape[0]; A.shape[1] is d_in": _found(scale="d_in"),
        "this is rsLoRA, which divides by the root of r; LoRA divides by r": _found(scale="root"),
        "the bias of the frozen layer is missing: call base, which adds it": _found(silent=False, scale="no bias"),
        "the frozen layer's own answer W x + b is missing": _found(silent=False, scale="alone"),
    },
)  # fmt: skip


# lora-merge -----------------------------------------------------------------------------------------------


def merge(W: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    r"""W + (alpha / r) B A, added in float32 and rounded to W's dtype once."""
    return (W.float() + alpha / len(A) * (B.float() @ A.float())).to(W.dtype)


def _secret_merge(draw: Draw) -> tuple[Tensor, Tensor, Tensor, float]:
    r"""Kind 0: all in float32. Kind 1: W in bfloat16, and no entry of the sum near a boundary of its rounding."""
    while True:
        d_in, d_out, r = draw.whole(6, 9), draw.whole(5, 9), draw.whole(2, 8)
        W, A, B = (draw.normal(*shape) for shape in ((d_out, d_in), (r, d_in), (d_out, r)))
        alpha = draw.real(5, 20, digits=1)
        if not draw.kind:
            return W.float(), A.float(), B.float(), alpha
        W, A, B = W.bfloat16(), A.float(), B.float()
        exact = W.double() + alpha / r * (B.double() @ A.double())
        if torch.equal((exact * (1 + 1e-5)).bfloat16(), (exact * (1 - 1e-5)).bfloat16()):
            return W, A, B, alpha


MERGE = Exercise(
    id="lora-merge", points=2, difficulty=2, minutes=8,
    secret=_secret_merge, reference=merge,
    mutants={
        "the scale is missing: the branch is multiplied by alpha / r":
            lambda W, A, B, alpha: (W.float() + B @ A).to(W.dtype),
        "the scale is alpha / r, not alpha": lambda W, A, B, alpha: (W.float() + alpha * B @ A).to(W.dtype),
        "this is the update alone: the merged layer must do what W does as well":
            lambda W, A, B, alpha: (alpha / len(A) * B @ A).to(W.dtype),
        "the update is subtracted: that is how one takes it out again": lambda W, A, B, alpha: merge(W, -A, B, alpha),
        "it comes back in float32: a layer of a model in bfloat16 needs a weight in bfloat16":
            lambda W, A, B, alpha: W.float() + alpha / len(A) * B @ A,
        "the update is rounded to bfloat16, and then the sum once more: add in float32, round at the end":
            lambda W, A, B, alpha: W + (alpha / len(A) * (B.float() @ A.float())).to(W.dtype),
        "the product B A is rounded to bfloat16 before it is scaled: add in float32, round at the end":
            lambda W, A, B, alpha: W + alpha / len(A) * (B @ A).to(W.dtype),
        "A and B are rounded to bfloat16 before they are multiplied: add in float32, round at the end":
            lambda W, A, B, alpha: W + alpha / len(A) * (B.to(W.dtype) @ A.to(W.dtype)),
    },
    kinds=2, dtype=True,
)  # fmt: skip


# lora-estimate --------------------------------------------------------------------------------------------


def _model(draw: Draw) -> tuple[int, int, int, int]:
    r"""layers, hidden, kv, r: a decoder whose values are narrower than its queries (grouped-query attention)."""
    hidden = 64 * draw.whole(6, 64)
    return draw.whole(12, 48), hidden, hidden // draw.pick((2, 4, 8)), draw.pick((2, 4, 8, 16, 32))


def estimate(layers: int, hidden: int, kv: int, r: int) -> int:
    r"""Query matrices are (hidden, hidden), value matrices (kv, hidden); A is (r, d_in), B is (d_out, r)."""
    return layers * r * ((hidden + hidden) + (hidden + kv))


ESTIMATE = Numeric(
    id="lora-estimate", points=1, difficulty=2, minutes=5,
    given=("layers", "hidden", "kv", "r"), secret=_model, reference=estimate,
    mutants={
        "the value matrix is narrower: its d_out is kv, not hidden":
            lambda layers, hidden, kv, r: layers * r * 4 * hidden,
        "this is one layer; every layer has its own A and B": lambda layers, hidden, kv, r: r * (3 * hidden + kv),
        "this is the query matrices alone, or all A without B: both matrices have both":
            lambda layers, hidden, kv, r: layers * r * 2 * hidden,
        "these are the value matrices alone; the query matrices have A and B too":
            lambda layers, hidden, kv, r: layers * r * (hidden + kv),
        "a query matrix is hidden wide on both sides: A and B have r * hidden numbers each":
            lambda layers, hidden, kv, r: layers * r * (2 * hidden + kv),
        "these are the frozen matrices; A and B are what trains":
            lambda layers, hidden, kv, r: layers * hidden * (hidden + kv),
        "these are the bytes in fp32; the question is how many parameters":
            lambda layers, hidden, kv, r: 4 * layers * r * (3 * hidden + kv),
    },
)  # fmt: skip
