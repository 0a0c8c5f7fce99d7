r"""The exercises of notebook 08_qlora."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# qlora-forward --------------------------------------------------------------------------------------------


def _layer(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int, Tensor, Tensor, float]:
    # Square, and as many blocks as rows and columns, so that scales laid along the wrong axis run without an error.
    generator, d, r = _random(seed), 4 + 2 * seed, 2
    codes = torch.randint(0, 16, (d, d), generator=generator)
    table = (
        torch.linspace(-1, 1, 16, dtype=torch.float64).sign()
        * torch.linspace(-1, 1, 16, dtype=torch.float64) ** 2
    )
    absmax = 0.5 + torch.rand(d, generator=generator, dtype=torch.float64)
    x = torch.randn(3, d, generator=generator, dtype=torch.float64)
    A = torch.randn(r, d, generator=generator, dtype=torch.float64)
    B = torch.randn(d, r, generator=generator, dtype=torch.float64)
    return x, codes, table, absmax, d, A, B, 16.0


def forward(
    x: Tensor, codes: Tensor, table: Tensor, absmax: Tensor, block: int, A: Tensor, B: Tensor, alpha: float
) -> Tensor:
    r"""x W^T + (alpha / r) x A^T B^T with W = table[codes] times the scale of each block."""
    W = (table[codes].reshape(-1, block) * absmax[:, None]).reshape(codes.shape)
    return F.linear(x, W) + alpha / len(A) * F.linear(F.linear(x, A), B)


def _along_inputs(x, codes, table, absmax, block, A, B, alpha):
    return F.linear(x, table[codes] * absmax) + alpha / len(A) * F.linear(F.linear(x, A), B)


def _secret_forward(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, int, Tensor, Tensor, float]:
    d, r = 2 * draw.whole(2, 4), draw.whole(2, 3)
    rows, block = (d, d) if draw.kind == 0 else (d + draw.whole(1, 3), d // 2)
    table = torch.linspace(-1, 1, 16, dtype=torch.float64)
    table = table.sign() * table.abs() ** draw.real(1.5, 2.5)
    absmax = 0.5 + draw.uniform(rows * d // block)
    x, A, B = draw.normal(3, d), draw.normal(r, d), draw.normal(rows, r)
    return x, draw.integers(0, 15, rows, d), table, absmax, block, A, B, draw.real(5, 20, digits=1)


FORWARD = register(
    Exercise(
        id="qlora-forward",
        points=3,
        difficulty=3,
        minutes=15,
        hints=(
            "table[codes] has the shape of codes, and each entry is a level between -1 and 1.",
            "A block is `block` entries of the flattened weight: reshape(-1, block) puts one block in each row.",
            "Row i of that is multiplied by absmax[i]; then it goes back to the shape of codes. The rest is LoRA.",
        ),
        inputs=_layer,
        secret=_secret_forward,
        reference=forward,
        mutants=(
            Mutant(
                lambda x, codes, table, absmax, block, A, B, alpha: (
                    F.linear(x, table[codes]) + alpha / len(A) * F.linear(F.linear(x, A), B)
                ),
                "the levels lie between -1 and 1: each block still has to be multiplied by its absmax",
            ),
            Mutant(
                _along_inputs,
                "absmax runs along the columns; it belongs to blocks of the flattened weight, one row of blocks each",
            ),
            Mutant(
                lambda x, codes, table, absmax, block, A, B, alpha: (
                    F.linear(x, (codes.double().reshape(-1, block) * absmax[:, None]).reshape(codes.shape))
                    + alpha / len(A) * F.linear(F.linear(x, A), B)
                ),
                "a code is no number but an index: look it up in the table",
            ),
            Mutant(
                lambda x, codes, table, absmax, block, A, B, alpha: (
                    F.linear(x, (table[codes].reshape(-1, block) / absmax[:, None]).reshape(codes.shape))
                    + alpha / len(A) * F.linear(F.linear(x, A), B)
                ),
                "this divides by absmax; dividing was done when the weight was quantized, now multiply",
            ),
            Mutant(
                lambda x, codes, table, absmax, block, A, B, alpha: (
                    alpha
                    / len(A)
                    * (forward(x, codes, table, absmax, block, A, B, 0.0) + F.linear(F.linear(x, A), B))
                ),
                "the frozen part is scaled by alpha / r as well; only the update is",
            ),
            Mutant(
                lambda x, codes, table, absmax, block, A, B, alpha: forward(
                    x, codes, table, absmax, block, A, B, alpha * len(A)
                ),
                "the update is scaled by alpha; it is alpha divided by r, the number of rows of A",
            ),
            Mutant(
                lambda x, codes, table, absmax, block, A, B, alpha: forward(
                    x, codes, table, absmax, block, A, B, 0.0
                ),
                "the adapter is missing: add (alpha / r) B A x",
            ),
        ),
        tolerance=1e-8,
        kinds=2,
    )
)


# qlora-backward -------------------------------------------------------------------------------------------


def _gradients(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    generator, d = _random(seed), 4 + seed
    g = torch.randn(d, d, generator=generator, dtype=torch.float64)
    W = torch.randn(d, d, generator=generator, dtype=torch.float64)
    A = torch.randn(2, d, generator=generator, dtype=torch.float64)
    B = torch.randn(d, 2, generator=generator, dtype=torch.float64)
    return g, W, A, B, 1.5 + seed


def backward(g: Tensor, W: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
    r"""dL/dx = g W + s (g B) A."""
    return g @ W + s * (g @ B) @ A


def _secret_backward(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    n = draw.whole(4, 6)
    out, into = (n, n) if draw.kind == 0 else (draw.whole(7, 8), draw.whole(2, 3))
    shapes = ((n, out), (out, into), (2, into), (out, 2))
    return *(draw.normal(*shape) for shape in shapes), draw.real(1.2, 4)


BACKWARD = register(
    Exercise(
        id="qlora-backward",
        points=3,
        difficulty=3,
        minutes=10,
        hints=(
            "h = W x + s B (A x). There are two paths from x to h, so two gradients come back, and they add up.",
            "Forward is x W^T for a row x. Backward uses the same matrix, not transposed: g W.",
            "Through the adapter: first B, then A: (n, d_out)(d_out, r)(r, d_in).",
        ),
        inputs=_gradients,
        secret=_secret_backward,
        reference=backward,
        mutants=(
            Mutant(
                lambda g, W, A, B, s: s * (g @ B) @ A,
                "the way through the frozen weight is missing: W gets no gradient, but passes one on",
            ),
            Mutant(lambda g, W, A, B, s: g @ W, "the way through the adapter is missing"),
            Mutant(
                lambda g, W, A, B, s: g @ W.T + s * (g @ B) @ A,
                "W is met the wrong way round: forward is x W^T, backward is g W",
            ),
            Mutant(lambda g, W, A, B, s: g @ W + (g @ B) @ A, "the adapter's way has lost its factor s"),
            Mutant(lambda g, W, A, B, s: s * (g @ W + (g @ B) @ A), "s scales the adapter's way alone"),
            Mutant(
                lambda g, W, A, B, s: g @ torch.round(W) + s * (g @ B) @ A,
                "the gradient goes through W as it is; nothing is rounded on the way back",
            ),
        ),
        tolerance=1e-8,
        kinds=2,
    )
)


# qlora-bytes ----------------------------------------------------------------------------------------------


def _sizes(seed: int) -> tuple[int, int, int]:
    return 2**30 * (3 + 4 * seed), 2**26 * (5 + seed), 2**22 * (7 + 5 * seed)


def total_bytes(in_codes: int, dense: int, trained: int) -> float:
    r"""Codes with their scales, 16-bit numbers, and 4 + 4 + 8 bytes for each number that trains."""
    bits = 4 + 8 / 64 + 32 / (64 * 256)
    return in_codes * bits / 8 + 2 * dense + 16 * trained


def _secret_bytes(draw: Draw) -> tuple[int, int, int]:
    return 2**20 * draw.whole(2000, 16000), 2**20 * draw.whole(100, 800), 2**18 * draw.whole(40, 400)


BYTES = register(
    Exercise(
        id="qlora-bytes",
        points=2,
        difficulty=2,
        minutes=10,
        hints=(
            "Three kinds of parameters: in 4 bits (and a share of the scales), in 16 bits, and A and B.",
            "Double quantization: one 8-bit scale for 64 weights, and one 32-bit scale for 256 of those.",
            "A and B are there four times in 32 bits: themselves, their gradients, and Adam's two moments.",
        ),
        inputs=_sizes,
        secret=_secret_bytes,
        reference=total_bytes,
        mutants=(
            Mutant(
                lambda in_codes, dense, trained: in_codes * 4 / 8 + 2 * dense + 16 * trained,
                "the scales are missing: a weight costs a little more than 4 bits",
            ),
            Mutant(
                lambda in_codes, dense, trained: in_codes * 4.5 / 8 + 2 * dense + 16 * trained,
                "this is without double quantization: one fp32 scale for 64 weights, 4.5 bits",
            ),
            Mutant(
                lambda in_codes, dense, trained: in_codes * 4.125 / 8 + 2 * dense + 16 * trained,
                "the scales of the scales are missing: 32 bits for 64 · 256 weights",
            ),
            Mutant(
                lambda in_codes, dense, trained: in_codes * 4.127 / 8 + 2 * dense + 16 * trained,
                "4.127 bits are rounded, and here every byte counts: 4 + 8/64 + 32/(64 · 256)",
            ),
            Mutant(
                lambda in_codes, dense, trained: total_bytes(in_codes, dense, 0) + 4 * trained,
                "A and B are counted as weights only; they have gradients and two moments as well",
            ),
            Mutant(
                lambda in_codes, dense, trained: total_bytes(in_codes, dense, 0) + 12 * trained,
                "one of four is missing for A and B: weight, gradient, and two moments, 4 bytes each",
            ),
            Mutant(
                lambda in_codes, dense, trained: total_bytes(in_codes, dense, 0) + 8 * trained,
                "A and B take 16 bits here; weight, gradient and moments are in 32",
            ),
            Mutant(
                lambda in_codes, dense, trained: total_bytes(in_codes, 2 * dense, trained),
                "what stays dense takes 4 bytes here; the model is in 16 bits, so 2",
            ),
            Mutant(
                lambda in_codes, dense, trained: (in_codes + dense) * (4.126953125 / 8) + 16 * trained,
                "embeddings and norms are counted in 4 bits, too; they stay in 16",
            ),
            Mutant(
                lambda in_codes, dense, trained: 8 * total_bytes(in_codes, dense, trained),
                "these are bits; 8 of them are a byte",
            ),
            Mutant(
                lambda in_codes, dense, trained: (
                    total_bytes(in_codes, dense, trained) + 12 * (in_codes + dense)
                ),
                "gradients and moments are counted for frozen weights; only A and B have them",
            ),
        ),
        tolerance=1e-6,
    )
)


# qlora-plan -----------------------------------------------------------------------------------------------

Planned = tuple[int, str, bool, int]
BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True)
class _Plan:
    batch: int
    optimizer: str
    checkpointing: bool
    peak: int

    def time(self, unpack: float) -> float:
        r"""Of one row, in products of a row: two, or three with checkpointing, and a share of the unpacking."""
        return (3 if self.checkpointing else 2) * (1 + unpack / self.batch)

    @property
    def answer(self) -> Planned:
        return self.batch, self.optimizer, self.checkpointing, self.peak


@lru_cache(maxsize=256)
def _plans(size: str, seq: int) -> tuple[_Plan, ...]:
    r"""All of them, those that lose nothing first. With 8-bit states nothing else of a bill changes."""
    from coursekit.qlora.memory import qlora_bill

    shapes = list(product((False, True), BATCHES))
    bills = [qlora_bill(size, batch=batch, seq=seq, checkpointing=again) for again, batch in shapes]
    saved = bills[0].optimizer - qlora_bill(size, seq=seq, optimizer="adamw8bit").optimizer
    return tuple(
        _Plan(batch, optimizer, again, bill.peak - less)
        for optimizer, less in (("adamw", 0), ("adamw8bit", saved))
        for (again, batch), bill in zip(shapes, bills, strict=True)
    )


def plan(size: str, room: int, seq: int, unpack: float) -> Planned:
    r"""The least time a row of all that leave 1 GiB; of equally fast ones that with AdamW in 32 bits."""
    return _planned()(size, room, seq, unpack)


def _planned(
    key: Callable[[_Plan, float], Any] = lambda p, unpack: (p.time(unpack), p.optimizer),
    needs: Callable[[_Plan], int] = lambda p: p.peak + 2**30,
    tried: Callable[[_Plan], bool] = lambda p: True,
) -> Callable[..., Planned]:
    r"""The right plan but for what is best, what has to fit or what is tried; where none fits, the smallest."""

    def made(size: str, room: int, seq: int, unpack: float) -> Planned:
        plans = [p for p in _plans(size, seq) if tried(p)]
        fit = [p for p in plans if needs(p) <= room] or [min(plans, key=lambda p: p.peak)]
        return min(fit, key=lambda p: key(p, unpack)).answer

    return made


def _what_is_left(size: str, room: int, seq: int, unpack: float) -> Planned:
    batch, optimizer, checkpointing, peak = plan(size, room, seq, unpack)
    return batch, optimizer, checkpointing, room - peak


def _cards(seed: int) -> tuple[str, int, int, float]:
    return (
        ("7B", 16 * 2**30, 512, 0.5),
        ("7B", 8 * 2**30, 512, 1.0),
        ("13B", 12 * 2**30, 512, 1.5),
    )[seed]


def _card(draw: Draw) -> tuple[str, int, int, float]:
    r"""Kind 0: fastest without checkpointing; 1: with it; in both AdamW in 32 bits. 2: in 8 bits."""
    while True:
        size, seq = draw.pick(("7B", "13B")), 128 * draw.whole(2, 8)
        plans = _plans(size, seq)
        for _ in range(200):
            room = int(draw.real(1.02, 2.5) * 2**30) + draw.pick([p.peak for p in plans[:-1]])
            unpack = draw.real(0.2, 4, digits=2)
            fit = [p for p in plans if p.peak + 2**30 <= room]
            if not fit or room > 96 * 2**30:
                continue
            best = min(fit, key=lambda p: (p.time(unpack), p.optimizer))
            kind = 2 if best.optimizer == "adamw8bit" else int(best.checkpointing)
            # Neither what fits nor what is fastest may hang on rounding.
            times = sorted({p.time(unpack) for p in fit})
            near = any(abs(p.peak + 2**30 - room) < 2**22 for p in plans) or any(
                b < 1.005 * a for a, b in pairwise(times)
            )
            if kind == draw.kind and not near:
                return size, room, seq, unpack


PLAN = register(
    Exercise(
        id="qlora-plan",
        points=4,
        difficulty=3,
        minutes=20,
        hints=(
            "Three loops: over the batches 1, 2, 4 and 8, over the two optimizers, and over False and True.",
            "qlora_bill(size, batch=batch, seq=seq, optimizer=optimizer, checkpointing=checkpointing).peak is what a "
            "plan needs; pass over it where less than memory.GiB of the room is left.",
            "Of two equally fast plans the one with AdamW in 32 bits goes first: try those first, and let a later plan "
            "win only where it is faster.",
        ),
        inputs=_cards,
        secret=_card,
        reference=plan,
        mutants=(
            Mutant(
                _planned(needs=lambda p: p.peak),
                "this fills the card to the end; the driver takes some of it, so leave 1 GiB",
            ),
            Mutant(
                _planned(key=lambda p, unpack: (p.batch * p.time(unpack), p.optimizer)),
                "this is the time of a step; asked is the time of a row, a step's divided by its batch",
            ),
            Mutant(
                _planned(tried=lambda p: p.checkpointing),
                "checkpointing is always on: it lets the largest batch in, and a row costs three products, not two",
            ),
            Mutant(
                _planned(tried=lambda p: not p.checkpointing),
                "checkpointing is never tried: more rows fit with it, and they share the unpacking",
            ),
            Mutant(
                _planned(tried=lambda p: p.optimizer == "adamw"),
                "8-bit states are never tried; the room that they leave can hold a larger batch",
            ),
            Mutant(
                _planned(key=lambda p, unpack: (p.time(unpack), p.optimizer == "adamw")),
                "of two equally fast plans the one with AdamW in 32 bits goes first: 8-bit states lose a little",
            ),
            Mutant(
                _what_is_left,
                "the plan is right, and the last value is what it leaves; asked is what it needs",
            ),
        ),
        tolerance=0,
        kinds=3,
    )
)


# qlora-noise ----------------------------------------------------------------------------------------------


def _merged(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = _random(seed)
    levels = torch.linspace(-1, 1, 16, dtype=torch.float64)
    W = levels[torch.randint(0, 16, (6, 6), generator=generator)]
    return W, 0.05 * torch.randn(6, 6, generator=generator, dtype=torch.float64), levels


def noise(W: Tensor, delta: Tensor, levels: Tensor) -> float:
    r"""|| Q(W + delta) - (W + delta) || / || delta ||, where Q takes every number to the nearest level."""
    merged = W + delta
    nearest = levels[(merged[..., None] - levels).abs().argmin(-1)]
    return ((nearest - merged).norm() / delta.norm()).item()


def _secret_noise(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    k, rows, columns = draw.whole(9, 17), draw.whole(5, 7), draw.whole(5, 7)
    levels = torch.linspace(-1, 1, k, dtype=torch.float64)
    W = levels[draw.integers(0, k - 1, rows, columns)]
    return W, draw.real(0.6, 1.2) / k * draw.normal(rows, columns), levels


NOISE = register(
    Exercise(
        id="qlora-noise",
        points=3,
        difficulty=3,
        minutes=15,
        hints=(
            "First merge: M = W + delta. Then find for each number of M the nearest of the levels.",
            "(M[..., None] - levels).abs() holds all distances; argmin(-1) is the index of the nearest level.",
            "The noise is what rounding did to M. Divide its norm by the norm of delta.",
        ),
        inputs=_merged,
        secret=_secret_noise,
        reference=noise,
        mutants=(
            Mutant(
                lambda W, delta, levels: 0.0 * noise(W, delta, levels),
                "the noise is 0: W is on the levels, but W + delta is what has to be rounded",
            ),
            Mutant(
                lambda W, delta, levels: (
                    (levels[((W + delta)[..., None] - levels).abs().argmin(-1)] - W).norm() / delta.norm()
                ).item(),
                "this compares the rounded weight with W; the noise is its distance from W + delta",
            ),
            Mutant(
                lambda W, delta, levels: noise(W, delta, levels) * (delta.norm() / (W + delta).norm()).item(),
                "this divides by the merged weight; the question is how large the noise is beside the update",
            ),
            Mutant(
                lambda W, delta, levels: noise(W, delta, levels) * delta.norm().item(),
                "this is the noise itself; divide it by the norm of the update",
            ),
            Mutant(
                lambda W, delta, levels: noise(W, delta, levels) ** 2,
                "these are squared lengths: take the root of both",
            ),
            Mutant(
                lambda W, delta, levels: 1 / noise(W, delta, levels),
                "upside down: the noise divided by the update",
            ),
            Mutant(
                lambda W, delta, levels: (
                    (levels[(delta[..., None] - levels).abs().argmin(-1)] - delta).norm() / delta.norm()
                ).item(),
                "delta is rounded on its own; what is stored is one weight, W + delta",
            ),
        ),
        tolerance=1e-8,
    )
)
