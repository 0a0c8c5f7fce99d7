r"""The first exercise of notebook 07b_scales_and_formats: GPTQ, columns that make up for what rounding lost."""

from __future__ import annotations

import torch
from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.quantization import gptq as course

#: Largest code.
MOST = 7


def gptq(W: Tensor, H: Tensor, step: Tensor) -> Tensor:
    r"""W in multiples of step, each column rounded after those before it have passed on what they lost."""
    return course.gptq(W, H, step, MOST)


def _gptq(
    W: Tensor, H: Tensor, step: Tensor, most: int = MOST, sign: int = 1, rows: str = "inverse of what is left",
    divided: bool = True, lost_of: str = "moved", backwards: bool = False,
) -> Tensor:  # fmt: skip
    first, W, inverse = W, W.clone(), torch.linalg.inv(H)
    n = W.shape[1]
    for j in reversed(range(n)) if backwards else range(n):
        left = list(range(j)) if backwards else list(range(j + 1, n))
        if rows == "H":
            row, own = H[j, left], H[j, j]
        elif rows == "factor of H":
            U = torch.linalg.cholesky(H, upper=True)
            row, own = U[j, left], U[j, j]
        elif rows == "whole inverse":
            row, own = inverse[j, left], inverse[j, j]
        elif rows == "every column":
            left = [i for i in range(n) if i != j]
            row, own = inverse[j, left], inverse[j, j]
        else:
            G = torch.linalg.inv(H[[j, *left]][:, [j, *left]])
            row, own = G[0, 1:], G[0, 0]
        rounded = course.nearest(W[:, [j]], step, most)
        lost = (W if lost_of == "moved" else first)[:, [j]] - rounded
        W[:, left] -= sign * (lost / own if divided else lost) * row
        W[:, [j]] = rounded
    return W


def _secret(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    r"""Inputs that hang together, and a step with which the largest weight of each row lies outside."""
    out, width = draw.whole(2, 4), draw.whole(4, 6)
    X = draw.normal(30, 3) @ draw.normal(3, width) + 0.6 * draw.normal(30, width)
    W = draw.normal(out, width)
    return W, X.T @ X, draw.real(0.6, 0.85) * W.abs().amax(1, keepdim=True) / MOST


GPTQ = Exercise(
    id="quantization-gptq", points=4, difficulty=4, minutes=20,
    secret=_secret, reference=gptq,
    mutants={
        "this is plain rounding: the later columns do not make up for what is lost":
            lambda W, H, step: course.nearest(W, step, MOST),
        "a code lies beyond 7: a weight that has moved needs its limits, too":
            lambda W, H, step: _gptq(W, H, step, most=10**9),
        "the later columns move the wrong way: they lose more instead of making up for it":
            lambda W, H, step: _gptq(W, H, step, sign=-1),
        "this moves by a row of H; how the others best follow stands in its inverse":
            lambda W, H, step: _gptq(W, H, step, rows="H"),
        "this is the factor of H; it is the inverse of H that is taken apart":
            lambda W, H, step: _gptq(W, H, step, rows="factor of H"),
        "the inverse is that of all columns; the rounded ones can no longer move, so leave them out of H first":
            lambda W, H, step: _gptq(W, H, step, rows="whole inverse"),
        "columns that were rounded already have moved again, off their steps: move the later ones only":
            lambda W, H, step: _gptq(W, H, step, rows="every column"),
        "what is lost is not divided by the diagonal entry of the inverse":
            lambda W, H, step: _gptq(W, H, step, divided=False),
        "what is lost counts from the weight as it has moved by then, not from the one that you were given":
            lambda W, H, step: _gptq(W, H, step, lost_of="given"),
        "this goes from the last column to the first": lambda W, H, step: _gptq(W, H, step, backwards=True),
        "these are the codes; what comes back is code times step": lambda W, H, step: _gptq(W, H, step) / step,
    },
    tolerance=1e-6,
)  # fmt: skip
