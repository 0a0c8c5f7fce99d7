r"""The exercises of notebook 07_quantization, but for its open one."""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw

# quantization-blockwise -----------------------------------------------------------------------------------


def blockwise(
    x: Tensor, code: Tensor, block: int, mean: bool = False, scale: str = "absmax", to: str = "nearest",
    give: str = "values",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r"""absmax of each block, and code[nearest(x / absmax)] absmax; what else there is to set is wrong."""
    blocks = x.view(-1, block)
    shift = blocks.mean(1, keepdim=True) if mean else torch.zeros_like(blocks[:, :1])
    centred = blocks - shift
    if scale == "absmax":
        size = centred.abs().amax(1, keepdim=True)
    elif scale == "max":
        size = centred.amax(1, keepdim=True)
    elif scale == "std":
        size = centred.std(1, keepdim=True, unbiased=False)
    else:  # one for the whole tensor
        size = centred.abs().amax().expand(len(blocks), 1)
    if to == "above":
        q = torch.searchsorted(code, (centred / size).contiguous()).clamp(max=len(code) - 1)
    elif to == "below":
        q = (torch.searchsorted(code, (centred / size).contiguous(), right=True) - 1).clamp(min=0)
    else:
        q = ((centred / size)[..., None] - code).abs().argmin(-1)
    given = {"values": code[q] * size + shift, "levels": code[q], "indices": q}[give]
    return size[:, 0].clone(), given.reshape(-1)


def _secret_blockwise(draw: Draw) -> tuple[Tensor, Tensor, int]:
    block = draw.whole(4, 12)
    scales = torch.tensor([1.0, 0.1, 3.0, 1.0, 0.5, 20.0], dtype=torch.float64)[draw.order(6)]
    x = (draw.normal(6, block) + 0.3) * scales[:, None]
    row = draw.whole(0, 5)
    x[row, draw.whole(0, block - 1)] = -1.1 * x[row].abs().max()
    levels = torch.cat([torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64), 2 * draw.uniform(13) - 1])
    return x.reshape(-1), levels.sort().values, block


BLOCKWISE = Exercise(
    id="quantization-blockwise", points=3, difficulty=3, minutes=10,
    secret=_secret_blockwise, reference=blockwise,
    mutants={
        "one scale for the whole tensor: each block has its own absmax":
            lambda x, code, block: blockwise(x, code, block, scale="tensor"),
        "the scale is the largest number, not the largest magnitude: a block may be largest below zero":
            lambda x, code, block: blockwise(x, code, block, scale="max"),
        "zero mean and unit variance, as the slide has it: NF4 subtracts nothing and divides by the absmax":
            lambda x, code, block: blockwise(x, code, block, mean=True, scale="std"),
        "the mean of the block is subtracted first; NF4 subtracts nothing":
            lambda x, code, block: blockwise(x, code, block, mean=True),
        "this takes the next level above; the nearest one may lie below":
            lambda x, code, block: blockwise(x, code, block, to="above"),
        "this takes the next level below; the nearest one may lie above":
            lambda x, code, block: blockwise(x, code, block, to="below"),
        "these are the indices of the levels; what comes back is table[index] times the absmax of the block":
            lambda x, code, block: blockwise(x, code, block, give="indices"),
        "the two results are in the wrong order: first absmax, then the values":
            lambda x, code, block: blockwise(x, code, block)[::-1],
        "the levels are not scaled back: multiply by the absmax of the block":
            lambda x, code, block: blockwise(x, code, block, give="levels"),
    },
    tolerance=1e-9,
)  # fmt: skip


# quantization-normal-float --------------------------------------------------------------------------------


def _quantile(p: Tensor) -> Tensor:
    return torch.tensor([NormalDist().inv_cdf(float(x)) for x in p], dtype=torch.float64)


def normal_float(
    bits: int, tail: float, extra: int = 0, zero: bool = True, divided: bool = True, sorted: bool = True
) -> Tensor:
    r"""Quantiles at equal steps from `tail` to 1/2 on either side and zero, over the largest, ascending."""
    n = 2 ** (bits - 1)
    positive = _quantile(torch.linspace(tail, 0.5, n + 1, dtype=torch.float64)[:-1])
    negative = -_quantile(torch.linspace(tail, 0.5, n + extra, dtype=torch.float64)[:-1])
    values = torch.cat([negative, positive.new_zeros(int(zero)), positive])
    if sorted:
        values = values.sort().values
    return values / values.max() if divided else values


def _uniform(bits: int, tail: float) -> Tensor:
    n = 2 ** (bits - 1)
    up, down = (torch.linspace(0, 1, m + 1, dtype=torch.float64) for m in (n, n - 1))
    return torch.cat([-down[1:].flip(0), up])


def _midpoints(bits: int, tail: float) -> Tensor:
    n = 2**bits
    q = _quantile(torch.arange(1, n + 2, dtype=torch.float64) / (n + 2))
    values = (q[1:] + q[:-1]) / 2
    return values / values.abs().max()


def _one_row(bits: int, tail: float) -> Tensor:
    values = _quantile(torch.linspace(1 - tail, tail, 2**bits, dtype=torch.float64))
    return values / values.max()


def _two_zeros(bits: int, tail: float) -> Tensor:
    side = _quantile(torch.linspace(tail, 0.5, 2 ** (bits - 1), dtype=torch.float64))
    return torch.cat([-side, side.flip(0)]) / side.max()


def _one_left_out(bits: int, tail: float, kept: slice) -> Tensor:
    up = _quantile(torch.linspace(tail, 0.5, 2 ** (bits - 1) + 1, dtype=torch.float64)[:-1])
    return torch.cat([-up[kept], up.new_zeros(1), up.flip(0)]) / up.max()


def _secret_normal_float(draw: Draw) -> tuple[int, float]:
    # With 2 bits the one level below is the outermost one, however the steps are made.
    return draw.whole(3, 5), draw.real(0.8, 0.98, digits=6)


NORMAL_FLOAT = Exercise(
    id="quantization-normal-float", points=4, difficulty=4, minutes=15,
    secret=_secret_normal_float, reference=normal_float,
    mutants={
        "the levels are not divided by the largest: they must end at -1 and 1, where the absmax is":
            lambda bits, tail: normal_float(bits, tail, divided=False),
        "one level too many: zero has to come out of one half, so there are 2 ** (bits - 1) - 1 negative ones":
            lambda bits, tail: normal_float(bits, tail, extra=1),
        "there is no level at zero; a weight of zero must stay zero, so one negative level makes room for it":
            lambda bits, tail: normal_float(bits, tail, extra=1, zero=False),
        "one row of steps from 1 - tail to tail misses zero: each side has its own steps, from tail to 1/2": _one_row,
        "zero is there twice, once from each side: leave out the quantile of 1/2, and put zero in once": _two_zeros,
        "these levels are equally far apart: that is an integer type; equal are the steps of probability": _uniform,
        "this is equation 4 of the paper's text, which has no zero; its NF4 is two-sided, with the zero shared":
            _midpoints,
        "the sides are swapped: more levels are positive than negative":
            lambda bits, tail: -normal_float(bits, tail).flip(0),
        "the levels below are those above with a minus, the outermost left out; they start at the same tail and "
        "have steps of their own": lambda bits, tail: _one_left_out(bits, tail, slice(1, None)),
        "the levels below are those above with a minus, the innermost left out; they are one fewer, so their "
        "steps are wider": lambda bits, tail: _one_left_out(bits, tail, slice(-1)),
        "the levels are right but not in ascending order": lambda bits, tail: normal_float(bits, tail, sorted=False),
    },
    tolerance=1e-6,
)  # fmt: skip


# quantization-q4-1 ----------------------------------------------------------------------------------------


def q4_1(block: Tensor, swapped: bool = False, order: str = "halves", offset: int = 0, shift: int = 4) -> Tensor:
    r"""d q + m for 20 bytes: d and m in fp16, then the low nibbles and the high ones."""
    d, m = block[:4].clone().view(torch.float16).float()
    if swapped:
        d, m = m, d
    low, high = block[4:] & 15, (block[4:] & 240) >> shift
    if order == "halves":
        q = torch.cat([low, high])
    elif order == "high first":
        q = torch.cat([high, low])
    else:  # neighbours share a byte
        q = torch.stack([low, high], 1).flatten()
    return d * (q.float() - offset) + m


def _secret_q4_1(draw: Draw) -> tuple[Tensor]:
    head = torch.tensor([draw.whole(1, 60) / 64, -draw.whole(20, 200) / 32], dtype=torch.float16)
    return (torch.cat([head.view(torch.uint8), draw.integers(0, 255, 16).to(torch.uint8)]),)


Q4_1 = Exercise(
    id="quantization-q4-1", points=3, difficulty=3, minutes=10,
    secret=_secret_q4_1, reference=q4_1,
    mutants={
        "the two codes of a byte are taken for neighbours; here the high ones belong to weights 16 to 31":
            lambda block: q4_1(block, order="pairs"),
        "low and high codes are swapped: the low ones come first": lambda block: q4_1(block, order="high first"),
        "d and m are swapped: the step d comes first": lambda block: q4_1(block, swapped=True),
        "8 is subtracted from the codes, as in Q4_0; Q4_1 has a minimum m instead, which code 0 stands for":
            lambda block: q4_1(block, offset=8),
        "the minimum m is missing: code 0 stands for m":
            lambda block: q4_1(block) - block[2:4].clone().view(torch.float16).float(),
        "the high codes are not shifted down: byte >> 4 is a number from 0 to 15, byte & 240 is not":
            lambda block: q4_1(block, shift=0),
        "m is multiplied by d, too: d q + m, not d (q + m)": lambda block: (
            q4_1(block) + (block[:2].view(torch.float16).float() - 1) * block[2:4].view(torch.float16).float()
        ),
        "m is no zero point, to be subtracted from the codes: d q + m, not d (q - m)": lambda block: (
            q4_1(block) - (block[:2].view(torch.float16).float() + 1) * block[2:4].view(torch.float16).float()
        ),
    },
    tolerance=1e-6, dtype=True,
)  # fmt: skip
