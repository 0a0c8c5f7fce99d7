r"""An exercise of notebook 07_quantization: which code, which blocks, and are the scales quantized as well?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw
from coursekit.quantization import measured_error, quantize_blockwise

Case = tuple[Tensor, float, list[str], list[int]]
Chosen = tuple[str, int, bool, float]
CODES = ("int3", "nf3", "int4", "e2m1", "nf4", "int5", "nf5", "int6", "nf6")
BLOCKS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class _Option:
    code: str
    block: int
    double: bool
    bits: float  # of a weight, as stored
    error: float

    @property
    def wide(self) -> int:
        r"""Bits of a code."""
        return 4 if self.code == "e2m1" else int(self.code[-1])

    @property
    def formula(self) -> float:
        r"""Bits of a weight in a large matrix, without its mean."""
        return self.wide + (8 / self.block + 32 / (256 * self.block) if self.double else 32 / self.block)

    @property
    def answer(self) -> Chosen:
        return self.code, self.block, self.double, self.error


def _options(W: Tensor, codes: Sequence[str], blocks: Sequence[int]) -> tuple[_Option, ...]:
    return _measured(tuple(W.flatten().tolist()), tuple(codes), tuple(blocks))


@lru_cache(maxsize=64)
def _measured(
    weights: tuple[float, ...], codes: tuple[str, ...], blocks: tuple[int, ...]
) -> tuple[_Option, ...]:
    W, found = torch.tensor(weights), []
    for name, block, double in product(codes, blocks, (False, True)):
        bits = quantize_blockwise(W, name, block, double).bits
        found.append(_Option(name, block, double, bits, measured_error(W, name, block, double).squared))
    return tuple(found)


def choose(W: Tensor, room: float, codes: list[str], blocks: list[int]) -> Chosen:
    r"""The smallest error of all that take at most `room` bits."""
    return _picked()(W, room, codes, blocks)


def _picked(
    best: Callable[[_Option], Any] = lambda o: o.error,
    fits: Callable[[_Option, float], bool] = lambda o, room: o.bits <= room,
    tried: Callable[[_Option], bool] = lambda o: True,
) -> Callable[..., Chosen]:
    r"""The right choice but for what is best, what fits or what is tried."""

    def made(W: Tensor, room: float, codes: list[str], blocks: list[int]) -> Chosen:
        options = _options(W, codes, blocks)
        return min((o for o in options if tried(o) and fits(o, room)), key=best).answer

    return made


def _bits_for_error(
    W: Tensor, room: float, codes: list[str], blocks: list[int]
) -> tuple[str, int, bool, float]:
    code, block, double, _ = choose(W, room, codes, blocks)
    return code, block, double, quantize_blockwise(W, code, block, double).bits


def _weights(draw: Draw) -> Tensor:
    r"""Rows of several sizes, and one large weight: small blocks are worth something."""
    W = draw.normal(20, 24) * (0.4 + draw.uniform(20, 1))
    W[draw.whole(0, 19), draw.whole(0, 23)] = draw.real(4, 7)
    return W.float()


#: The room of a case of each kind, in bits a weight: codes of 3 and 4 bits, of 5 and 6, and any.
_ROOMS = ((3.4, 5.2), (5.2, 6.6), (6.6, 9.0))


def _case(draw: Draw) -> Case:
    r"""Kind 0: scales in 8 bits, where the formula chooses wrong; 2: scales as they are, and integers; 1: whatever."""
    while True:
        W = _weights(draw)
        options = _options(W, CODES, BLOCKS)
        for _ in range(20):
            room = draw.real(*_ROOMS[draw.kind], digits=2)
            first, second = sorted((o for o in options if o.bits <= room), key=lambda o: o.error)[:2]
            by_formula = min((o for o in options if o.formula <= room), key=lambda o: o.error)
            wanted = (
                first.double and by_formula != first,
                True,
                not first.double and first.code.startswith("int"),
            )[draw.kind]
            # Neither the choice nor what fits may hang on rounding.
            near = second.error < 1.002 * first.error or any(abs(o.bits - room) < 1e-3 for o in options)
            if wanted and not near:
                return W, room, list(CODES), list(BLOCKS)


CHOOSE = register(
    Exercise(
        id="quantization-choose",
        points=3,
        difficulty=2,
        minutes=15,
        hints=(
            "Three loops, one inside the other: over `codes`, over `blocks`, and over False and True.",
            "quantize_blockwise(W, code, block, double).bits are the bits a weight as stored: pass over what takes "
            "more than `room`.",
            "measured_error(W, code, block, double).squared is the error. Keep the choice with the smallest so far.",
        ),
        inputs=lambda seed: _case(Draw(b"the notebook's", f"weights {seed}", kind=seed)),
        secret=_case,
        reference=choose,
        mutants=(
            Mutant(
                _picked(fits=lambda o, room: o.wide <= room),
                "too many bits: this counts the codes alone, and scales are stored, too",
            ),
            Mutant(
                _picked(fits=lambda o, room: o.formula <= room),
                "too many bits: the formula is for large matrices; for so few weights the mean and the second scales "
                "weigh more, so count what is stored",
            ),
            Mutant(
                _picked(fits=lambda o, room: True),
                "too many bits: this is the smallest error of all, whatever it takes; asked is the smallest within "
                "`room`",
            ),
            Mutant(
                _picked(best=lambda o: (-o.bits, o.error)),
                "not the best: this fills the room as far as it can; asked is the smallest error",
            ),
            Mutant(
                _picked(best=lambda o: (o.block, o.error)),
                "not the best: this takes the smallest blocks first, and a wider code may be worth more than those",
            ),
            Mutant(
                _picked(tried=lambda o: not o.double),
                "not the best: double quantization is never tried; what it saves can pay for a better code or smaller "
                "blocks",
            ),
            Mutant(
                _picked(tried=lambda o: o.double),
                "not the best: the scales are always quantized; where there is room, scales as they are err less",
            ),
            Mutant(_picked(tried=lambda o: o.block == 64), "not the best: only blocks of 64 are tried"),
            Mutant(
                _picked(tried=lambda o: o.code.startswith("nf")),
                "not the best: only NormalFloat is tried; with more bits integers can be better",
            ),
            Mutant(
                _bits_for_error,
                "the choice is right, and the last value are its bits; asked is its squared error",
            ),
        ),
        tolerance=1e-4,
        kinds=3,
    )
)
