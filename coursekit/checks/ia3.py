r"""The exercises of notebook 03_ia3 but its open one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.quantization import quantize_affine

# ia3-attention --------------------------------------------------------------------------------------------


def attention(q: Tensor, k: Tensor, v: Tensor, l_k: Tensor, l_v: Tensor) -> Tensor:
    r"""softmax(q (l_k k)^T / sqrt(d)) (l_v v)."""
    scores = q @ (l_k * k).transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ (l_v * v)


def _rescored(factor: Callable[[Tensor], float], over: int = -1) -> Callable[..., Tensor]:
    r"""Attention whose scores are divided by something else than the root of d, or whose softmax runs elsewhere."""
    return lambda q, k, v, l_k, l_v: (q @ (l_k * k).transpose(-1, -2) / factor(q)).softmax(over) @ (l_v * v)


def _secret_attention(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d = draw.whole(4, 7)
    # With as many tokens as dimensions a vector laid along the wrong axis runs without an error.
    tokens = d if draw.kind == 0 else draw.whole(2, 3)
    q, k, v = (draw.normal(2, tokens, d) for _ in range(3))
    return q, k, v, 1 + 0.5 * draw.normal(d), 1 + 0.5 * draw.normal(d)


ATTENTION = Exercise(
    id="ia3-attention", points=3, difficulty=2, minutes=8,
    secret=_secret_attention, reference=attention,
    mutants={
        "the scores are not divided by the root of d: the slide's pseudo-code forgets it, its formula does not":
            _rescored(lambda q: 1.0),
        "the root is of another size: q.shape[1] is the number of tokens; d is the last axis, q.shape[-1]":
            _rescored(lambda q: math.sqrt(q.shape[1])),
        "the root is of another size: q.shape[0] is the number of texts; d is the last axis, q.shape[-1]":
            _rescored(lambda q: math.sqrt(q.shape[0])),
        "the scores are divided by d itself; divide them by its root": _rescored(lambda q: q.shape[-1]),
        "the vectors lie along the tokens: this scales token i by entry i; l * k scales dimension j by entry j":
            lambda q, k, v, l_k, l_v: attention(q, l_k[:, None] * k, l_v[:, None] * v, l_k / l_k, l_v / l_v),
        "the softmax runs over the queries; each query's weights over the keys add up to 1, so dim=-1":
            _rescored(lambda q: math.sqrt(q.shape[-1]), over=-2),
        "l_k scales whole keys, as if it multiplied the scores; l_k * k scales dimension j of each key by l_k[j]":
            lambda q, k, v, l_k, l_v:
                (l_k * (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]))).softmax(-1) @ (l_v * v),
        "l_k and l_v are swapped: l_k scales the keys, l_v the values":
            lambda q, k, v, l_k, l_v: attention(q, k, v, l_v, l_k),
        "the values are not scaled: l_v is missing":
            lambda q, k, v, l_k, l_v: attention(q, k, v, l_k, torch.ones_like(l_v)),
        "the keys are not scaled: l_k is missing":
            lambda q, k, v, l_k, l_v: attention(q, k, v, torch.ones_like(l_k), l_v),
        "queries and keys are both scaled, so l_k counts twice; only the keys are scaled":
            lambda q, k, v, l_k, l_v: attention(q * l_k, k, v, l_k, l_v),
        "the vectors are added; the method is called additive because it adds parameters, but it multiplies":
            lambda q, k, v, l_k, l_v: attention(q, k + l_k, v + l_v, l_k / l_k, l_v / l_v),
    },
    tolerance=1e-8, kinds=2,
)  # fmt: skip


# ia3-layer ------------------------------------------------------------------------------------------------

Layer = tuple[Tensor, Tensor, Tensor, Tensor, str]
Found = tuple[bool, str, int, Tensor]
#: What `built.ia3_layer` finds of the shape of l on each side, where the layer is not square.
FACTORS = {"output": "l has one factor for each output", "input": "l has one factor for each input"}


def layer(W: Tensor, b: Tensor, l: Tensor, x: Tensor, side: str) -> Found:
    r"""What the stub's `ia3_layer` finds of a right layer: silent at the start, l's shape, what trains, output."""
    h = l * F.linear(x, W, b) if side == "output" else F.linear(l * x, W, b)
    return True, FACTORS[side], l.numel(), h


class Scaled(nn.Module):
    r"""What `layer` describes, as a module: it stands in for a student's class that does not pass yet.

    base: a linear layer, which is frozen. side: "output" or "input", what the factors l belong to.
    """

    def __init__(self, base: nn.Linear, side: str):
        super().__init__()
        self.base, self.side = base.requires_grad_(False), side
        self.l = nn.Parameter(torch.ones(base.out_features if side == "output" else base.in_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.l * self.base(x) if self.side == "output" else self.base(self.l * x)


def _found(
    silent: bool = True, base: str = "", own: bool = True, scaled: Callable[..., Tensor] | None = None,
    factors: dict[str, str] = FACTORS,
) -> Callable[..., Found]:  # fmt: skip
    r"""What is found of a layer with a mistake. base: what of it trains as well, such as "Wb"; own: l trains;
    factors: shape of l.
    """

    def mutant(W: Tensor, b: Tensor, l: Tensor, x: Tensor, side: str) -> Found:
        trained = W.numel() * ("W" in base) + b.numel() * ("b" in base) + l.numel() * own
        return silent, factors[side], trained, (scaled or (lambda *a: layer(*a)[-1]))(W, b, l, x, side)

    return mutant


#: l as long as for one side, on both.
_OUTPUTS, _INPUTS = (dict.fromkeys(FACTORS, found) for found in FACTORS.values())


def _secret_layer(draw: Draw) -> Layer:
    # As many inputs as outputs: factors on the wrong side then run without an error. (The shape of l is looked at on
    # a layer that is not square.)
    d, side = draw.whole(4, 7), ("output", "input")[draw.kind]
    normal = functools.partial(draw.normal, dtype=torch.float32)
    return normal(d, d), normal(d), 1 + 0.5 * normal(d), normal(2, 3, d), side


LAYER = Exercise(
    id="ia3-layer", points=4, difficulty=3, minutes=12,
    secret=_secret_layer, reference=layer, part=Scaled,
    mutants={
        "at the start the layer must give what the base layer gives: factors that multiply start at 1":
            _found(silent=False),
        "the base layer still trains: freeze it with base.requires_grad_(False)": _found(base="Wb"),
        "the bias of the base layer still trains: base.requires_grad_(False) freezes both": _found(base="b"),
        "l is not trained: a tensor is a parameter only as nn.Parameter(tensor)": _found(own=False),
        "the base layer trains and l does not: freeze the one, make the other nn.Parameter":
            _found(base="Wb", own=False),
        "the shape of l is wrong with side='input': one factor for each input, base.in_features of them":
            _found(factors=_OUTPUTS),
        "the shape of l is wrong with side='output': one factor for each output, base.out_features of them":
            _found(factors=_INPUTS),
        "the shape of l is swapped: base.out_features factors with 'output', base.in_features with 'input'":
            _found(factors={"output": FACTORS["input"], "input": FACTORS["output"]}),
        "side is not looked at: with 'input' l has base.in_features factors, and they multiply x, before the "
        "base layer": _found(factors=_OUTPUTS, scaled=lambda W, b, l, x, side: l * F.linear(x, W, b)),
        "side is not looked at: with 'output' l has base.out_features factors, and they multiply what the base "
        "layer gives": _found(factors=_INPUTS, scaled=lambda W, b, l, x, side: F.linear(l * x, W, b)),
        "side is not looked at: with 'input' the factors multiply x, before the base layer":
            _found(scaled=lambda W, b, l, x, side: l * F.linear(x, W, b)),
        "side is not looked at: with 'output' the factors multiply what the base layer gives":
            _found(scaled=lambda W, b, l, x, side: F.linear(l * x, W, b)),
        "the two sides are swapped: 'output' is l * base(x), 'input' is base(l * x)":
            _found(scaled=lambda W, b, l, x, side: layer(W, b, l, x, "input" if side == "output" else "output")[-1]),
        "the bias of the base layer is not scaled: an output is W x + b, all of it times l":
            _found(
                scaled=lambda W, b, l, x, side: l * F.linear(x, W) + b if side == "output" else F.linear(l * x, W, b)
            ),
        "with 'input' the bias is scaled as well: l meets x alone": _found(
            scaled=lambda W, b, l, x, side: layer(W, l * b if side == "input" else b, l, x, side)[-1]
        ),
        "the factors are added; the method is called additive because it adds parameters, but it multiplies":
            _found(silent=False, scaled=lambda W, b, l, x, side: F.linear(x, W, b) + l),
        "the factors are in there twice": _found(scaled=lambda W, b, l, x, side: layer(W, b, l * l, x, side)[-1]),
    },
    kinds=2,
)  # fmt: skip


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
