r"""The exercise of notebook 12_ship_it on a file for llama.cpp: the A, B and alpha that it wants of a LoRA.

The answer is what `methods/gguf_lora.py` writes, bit for bit; llama.cpp itself has run such a file
(tests/fixtures/llama_cpp.json). Right is whatever llama.cpp's formula makes the same of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from coursekit.checks.compare import Comparison
from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw

Parts = tuple[Tensor, Tensor, float]


def added(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    r"""What llama.cpp adds to the matrix of a layer: $\alpha / \mathrm{rows}(A)\; BA$."""
    return alpha / len(a) * (b.detach().double() @ a.detach().double())


@dataclass(frozen=True)
class OfFile(Comparison):
    r"""a, b and alpha are right where llama.cpp adds the right matrix: the scale may stand in b as well as in alpha."""

    def difference(self, given: Any, expected: Any) -> str | None:
        r"""As in Comparison."""
        if not isinstance(expected, tuple):
            return super().difference(given, expected)
        if type(given) not in (tuple, list):
            return "it must return a, b and alpha"
        if len(given) != 3:
            return f"it must return a, b and alpha, and returns {len(given)} values"
        a, b, alpha = given
        if any(type(x) not in (Tensor, nn.Parameter) or x.is_complex() for x in (a, b)):
            return "a and b must be tensors of real numbers"
        if isinstance(alpha, np.generic) or (type(alpha) is Tensor and alpha.numel() == 1):
            alpha = alpha.item()
        if type(alpha) not in (int, float):
            return "alpha must be one number"
        own_a, own_b, _ = expected
        if a.shape != own_a.shape or b.shape != own_b.shape:
            return f"a must have A's shape and b B's; got {tuple(a.shape)} and {tuple(b.shape)}"
        found, right = added(a, b, alpha), added(*expected)
        wrong = super().difference(found, right)
        if not found.any():
            return "llama.cpp adds nothing: a, b or alpha is 0"
        if wrong is None or not found.isfinite().all():
            return wrong
        times = float(found.norm() / right.norm())
        if super().difference(found / times, right) is None:
            return "the rows are in order, but llama.cpp adds too much or too little" + self.exactly(
                f": {times:.3g} times what the LoRA adds"
            )
        if abs(times - 1) < self.tolerance:
            return (
                "llama.cpp adds as much as the LoRA, but another matrix: look at the rows of b, the columns of a, and "
                "the sign of alpha"
            )
        return "llama.cpp adds another matrix, of another size: look at the order of rows and at alpha by themselves"


def paired(B: Tensor, heads: int, back: bool = False) -> Tensor:
    r"""The rows of `B` in llama.cpp's order, or `back`. Imported when it is asked: transformers comes with it."""
    from coursekit.methods.gguf_lora import reordered

    return reordered(B, heads, back)


def for_llama_cpp(A: Tensor, B: Tensor, s: float, heads: int) -> Parts:
    r"""A, B and alpha as the file has them."""
    return A, paired(B, heads), s * len(A)


def _secret(draw: Draw) -> tuple[Tensor, Tensor, float, int]:
    # In a head of four rows the way there is the way back: these have six or eight.
    heads, half, r = draw.whole(2, 3), draw.whole(3, 4), draw.whole(2, 5)
    d_in = 2 * heads * draw.whole(2, 3)  # whoever moves inputs instead can do so
    s = draw.real(1.5, 4, 2)
    return draw.normal(r, d_in), draw.normal(2 * half * heads, r), s, 0 if draw.kind else heads


Wrong = Callable[[Tensor, Tensor, float, int], Parts]


def _with_rows(rows: Callable[[Tensor, int], Tensor]) -> Wrong:
    r"""The answer with the rows of B in another order."""
    return lambda A, B, s, heads: (A, rows(B, heads), s * len(A))


def _with_alpha(alpha: Callable[[Tensor, Tensor, float], float]) -> Wrong:
    r"""The answer with another alpha."""
    return lambda A, B, s, heads: (A, paired(B, heads), alpha(A, B, s))


def _turned(B: Tensor, heads: int) -> Tensor:
    return B.view(heads, 2, -1, B.shape[1]).flip(1).transpose(1, 2).reshape(B.shape) if heads else B


GGUF = Exercise(
    compare=OfFile, id="ship-gguf", points=3, difficulty=3, minutes=11,
    kinds=2,  # with heads, and without
    secret=_secret, reference=for_llama_cpp,
    mutants={
        "the rows are in transformers' order: llama.cpp takes two neighbours for a pair": _with_rows(
            lambda B, heads: B
        ),
        "the rows change places over all heads together; a row stays in its head":
            _with_rows(lambda B, heads: paired(B, min(heads, 1))),
        "this is the way back: it puts neighbours half a head apart": _with_rows(
            lambda B, heads: paired(B, heads, back=True)
        ),
        "neighbours are pairs, but in each the row of the second half stands first": _with_rows(_turned),
        "with heads = 0 all rows stay, and here they move": _with_rows(lambda B, heads: paired(B, max(heads, 1))),
        "the columns of A move: they are the layer's inputs, and the heads are its outputs":
            lambda A, B, s, heads: (paired(A.T, heads).T, B, s * len(A)),
        "the rows of B are right, but the columns of A move as well, and they are the layer's inputs":
            lambda A, B, s, heads: (paired(A.T, heads).T, paired(B, heads), s * len(A)),
        "alpha is s, which llama.cpp still divides by the rows of A": _with_alpha(lambda A, B, s: s),
        "alpha is s times the root of the rank, as in the settings of an rsLoRA; llama.cpp knows no root":
            _with_alpha(lambda A, B, s: s * len(A) ** 0.5),
        "alpha is divided by the rows of A, and llama.cpp divides it once more": _with_alpha(
            lambda A, B, s: s / len(A)
        ),
        "alpha counts the rows of B; llama.cpp divides by those of A": _with_alpha(lambda A, B, s: s * len(B)),
        "the scale is lost: llama.cpp adds BA alone": _with_alpha(lambda A, B, s: len(A)),
        "the scale counts twice: it stands in b, and in alpha too":
            lambda A, B, s, heads: (A, s * paired(B, heads), s * len(A)),
    },
)  # fmt: skip
