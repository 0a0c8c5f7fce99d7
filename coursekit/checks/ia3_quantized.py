r"""An exercise of notebook 03_ia3: which of the factors go exactly into the scales of a quantized matrix?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.quantization import quantize_affine

Case = tuple[Tensor, Tensor, Tensor, str]
Folded = tuple[Tensor, Tensor]
#: Factors, (out, blocks, block), and scales -> new scales and which are exact, (out, blocks).
Rule = Callable[[Tensor, Tensor], Folded]


def _spread(codes: Tensor, scale: Tensor, l: Tensor, side: str) -> Tensor:
    r"""The factor of each weight, (out, blocks, block)."""
    factors = l[:, None].expand(codes.shape) if side == "output" else l.expand(codes.shape)
    return factors.unflatten(1, (scale.shape[1], -1))


def fold_quantized(codes: Tensor, scale: Tensor, l: Tensor, side: str) -> Folded:
    r"""New scales and which of them are exact: where all weights of a block have one factor."""
    return _by(_one_factor)(codes, scale, l, side)


def _by(rule: Rule) -> Callable[[Tensor, Tensor, Tensor, str], Folded]:
    return lambda codes, scale, l, side: rule(_spread(codes, scale, l, side), scale)


def _one_factor(factors: Tensor, scale: Tensor) -> Folded:
    exact = factors.amin(-1) == factors.amax(-1)
    return torch.where(exact, scale * factors[..., 0], scale), exact


def _by_side(on_input: bool) -> Callable[[Tensor, Tensor, Tensor, str], Folded]:
    r"""The side alone decides: outputs always, inputs always or never."""

    def rule(codes: Tensor, scale: Tensor, l: Tensor, side: str) -> Folded:
        if side == "output":
            return fold_quantized(codes, scale, l, side)
        exact = torch.full(scale.shape, on_input)
        factors = _spread(codes, scale, l, side)
        return (scale * factors.mean(-1) if on_input else scale), exact

    return rule


def _secret(draw: Draw) -> Case:
    r"""As many blocks as rows, so that factors laid along the blocks run without an error. For inputs, three kinds of
    blocks: in the first all inputs have one factor, in the second all but one, in the others they differ.
    """
    side, blocks, block = ("output", "input")[draw.kind], draw.whole(3, 5), draw.whole(6, 9)
    W = draw.normal(blocks, block * blocks, dtype=torch.float32)
    l = 1 + 0.3 * draw.normal(blocks if side == "output" else block * blocks, dtype=torch.float32)
    if side == "input":
        l[: 2 * block] = torch.cat([l[:1].expand(block), l[block : block + 1].expand(block)])
        l[block] += 0.5
    q = quantize_affine(W, bits=4, symmetric=True, block=block)
    return q.codes, q.grid.scale.reshape(blocks, blocks), l, side


FOLD_QUANTIZED = Exercise(
    id="ia3-fold-quantized", points=4, difficulty=3, minutes=10,
    secret=_secret, reference=fold_quantized,
    mutants={
        "one scale stands in for a whole block's factors, such as their mean: not exact where they differ":
            _by_side(on_input=True),
        "factors of the inputs are always refused: a block whose inputs all have one factor can take it":
            _by_side(on_input=False),
        "nothing is folded: all blocks of a row share the factor of their output, so their scales take it":
            lambda codes, scale, l, side: (scale, torch.zeros(scale.shape, dtype=torch.bool)),
        "what is exact is right, but the scales are the old ones: multiply those blocks'":
            _by(lambda factors, scale: (scale, _one_factor(factors, scale)[1])),
        "this divides the scales: that is taking the factors out again":
            _by(lambda factors, scale: _one_factor(1 / factors, scale)),
        "the scales of blocks that cannot take the factors are changed as well: leave those as they are":
            _by(lambda factors, scale: (scale * factors.mean(-1), _one_factor(factors, scale)[1])),
        "the factors of the outputs lie along the blocks: scale is (out, blocks), so l[:, None] * scale":
            # it runs where there are as many blocks as rows
            lambda codes, scale, l, side: (
                (scale * l, torch.ones(scale.shape, dtype=torch.bool))
                if side == "output"
                else fold_quantized(codes, scale, l, side)
            ),
    },
    kinds=2,
)  # fmt: skip
