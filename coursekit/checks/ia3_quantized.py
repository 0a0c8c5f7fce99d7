r"""An exercise of notebook 03_ia3: which of the factors go exactly into the scales of a quantized matrix?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.checks.core import Exercise, register
from coursekit.checks.draw import Draw
from coursekit.quantization import quantize_affine

Case = tuple[Tensor, Tensor, Tensor, str]
Folded = tuple[Tensor, Tensor]
#: Factors and codes, both (out, blocks, block), and the scales -> new scales and which are exact, (out, blocks).
Rule = Callable[[Tensor, Tensor, Tensor], Folded]


def _spread(codes: Tensor, scale: Tensor, l: Tensor, side: str) -> tuple[Tensor, Tensor]:
    r"""The factor of each weight, and the codes, both as (out, blocks, block)."""
    factors = l[:, None].expand(codes.shape) if side == "output" else l.expand(codes.shape)
    return factors.unflatten(1, (scale.shape[1], -1)), codes.unflatten(1, (scale.shape[1], -1))


def fold_quantized(codes: Tensor, scale: Tensor, l: Tensor, side: str) -> Folded:
    r"""New scales and which of them are exact: where all weights of a block that are not 0 have one factor.

    A block of zeros takes any factors, and keeps its scale.
    """
    return _by(_one_factor)(codes, scale, l, side)


def _by(rule: Rule) -> Callable[[Tensor, Tensor, Tensor, str], Folded]:
    return lambda codes, scale, l, side: rule(*_spread(codes, scale, l, side), scale)


def _ends(factors: Tensor, counts: Tensor) -> Folded:
    r"""The smallest and the largest factor of each block, among the weights that count."""
    inf = torch.inf
    return factors.masked_fill(~counts, inf).amin(-1), factors.masked_fill(~counts, -inf).amax(-1)


def _one_factor(factors: Tensor, codes: Tensor, scale: Tensor) -> Folded:
    low, high = _ends(factors, codes != 0)
    empty = low > high  # no weight counts: inf and -inf
    return torch.where(low == high, scale * high, scale), (low == high) | empty


def _zeros_count(factors: Tensor, codes: Tensor, scale: Tensor) -> Folded:
    low, high = _ends(factors, torch.ones_like(codes, dtype=torch.bool))
    exact = low == high
    return torch.where(exact, scale * high, scale), exact


def _unscaled(factors: Tensor, codes: Tensor, scale: Tensor) -> Folded:
    return scale, _one_factor(factors, codes, scale)[1]


def _divided(factors: Tensor, codes: Tensor, scale: Tensor) -> Folded:
    low, high = _ends(factors, codes != 0)
    return torch.where(low == high, scale / high, scale), low == high


def _moved(factors: Tensor, codes: Tensor, scale: Tensor) -> Folded:
    return scale * factors.mean(-1), _one_factor(factors, codes, scale)[1]


def _by_side(on_input: bool) -> Callable[[Tensor, Tensor, Tensor, str], Folded]:
    r"""The side alone decides: outputs always, inputs always or never."""

    def rule(codes: Tensor, scale: Tensor, l: Tensor, side: str) -> Folded:
        if side == "output":
            return fold_quantized(codes, scale, l, side)
        exact = torch.full(scale.shape, on_input)
        factors, _ = _spread(codes, scale, l, side)
        return (scale * factors.mean(-1) if on_input else scale), exact

    return rule


def _never(codes: Tensor, scale: Tensor, l: Tensor, side: str) -> Folded:
    return scale, torch.zeros(scale.shape, dtype=torch.bool)


def _along_blocks(codes: Tensor, scale: Tensor, l: Tensor, side: str) -> Folded:
    if side == "output":
        return scale * l, torch.ones(
            scale.shape, dtype=torch.bool
        )  # runs where there are as many blocks as rows
    return fold_quantized(codes, scale, l, side)


def quantized_case(W: Tensor, factors: Tensor, blocks: int, side: str) -> Case:
    r"""A case around weights W, (out, in), and factors for its rows or columns.

    For inputs, four kinds of blocks: in the first all inputs have one factor; in the second they have two, and a weight
    is 0 in some rows where the odd one stands. In the others they differ.
    """
    W, l, block = W.clone(), factors.clone(), W.shape[1] // blocks
    if side == "input" and blocks > 1:
        l[: 2 * block] = torch.cat([l[:1].expand(block), l[block : block + 1].expand(block)])
        l[block] += 0.5
        W[::2, block] = 0.0
    q = quantize_affine(W, bits=4, symmetric=True, block=block)
    return q.codes, q.grid.scale.reshape(len(W), blocks), l, side


def _public(seed: int) -> Case:
    random = torch.Generator().manual_seed(seed)
    # As many blocks as rows, so that factors laid along the blocks run without an error.
    out, blocks, side = ((4, 4, "output"), (4, 4, "input"), (5, 1, "input"))[seed]
    W = torch.randn(out, 8 * blocks, generator=random)
    n = out if side == "output" else W.shape[1]
    return quantized_case(W, 1 + 0.3 * torch.randn(n, generator=random), blocks, side)


def _secret(draw: Draw) -> Case:
    side, blocks = ("output", "input")[draw.kind], draw.whole(3, 5)
    W = draw.normal(blocks, draw.whole(6, 9) * blocks, dtype=torch.float32)
    n = len(W) if side == "output" else W.shape[1]
    return quantized_case(W, 1 + 0.3 * draw.normal(n, dtype=torch.float32), blocks, side)


FOLD_QUANTIZED = register(
    Exercise(
        id="ia3-fold-quantized",
        points=4,
        difficulty=4,
        minutes=18,
        hints=(
            "A block is codes * one scale. For which factors is l_j * (scale * code_j) = new_scale * code_j for every "
            "j of the block?",
            "codes.unflatten(1, (blocks, -1)) is (out, blocks, block). A factor of the outputs is the same along a "
            "whole row; a factor of the inputs differs from column to column.",
            "What does a factor do to a code of 0?",
        ),
        inputs=_public,
        secret=_secret,
        reference=fold_quantized,
        mutants={
            "one scale stands in for a whole block's factors, such as their mean: not exact where they differ": (
                _by_side(on_input=True)
            ),
            "factors of the inputs are always refused: a block whose inputs all have one factor can take it": (
                _by_side(on_input=False)
            ),
            "a code of 0 stays 0 whatever its factor is: only the codes that are not 0 have to agree": (
                _by(_zeros_count)
            ),
            "nothing is folded: all blocks of a row share the factor of their output, so their scales take it": (
                _never
            ),
            "what is exact is right, but the scales are the old ones: multiply those blocks'": _by(_unscaled),
            "this divides the scales: that is taking the factors out again": _by(_divided),
            "the scales of blocks that cannot take the factors are changed as well: leave those as they are": (
                _by(_moved)
            ),
            "the factors of the outputs lie along the blocks: scale is (out, blocks), so l[:, None] * scale": (
                _along_blocks
            ),
        },
        kinds=2,
    )
)
