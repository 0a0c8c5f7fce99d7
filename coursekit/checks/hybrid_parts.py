r"""The open exercise of notebook 09_hybrid: an update that no single method can write down, within a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from coursekit.checks.compare import Comparison
from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw

#: How much more a right answer may leave than the course's own, and how far wrong ones keep from it.
WORSE, NEAR = 1.10, 1.04
Parts = tuple[Tensor, Tensor, Tensor]


def cost(B: Tensor, A: Tensor, S: Tensor) -> int:
    r"""Numbers that describe B A + S: all of B and A, and of S a value and a position for each entry that is not 0."""
    return B.numel() + A.numel() + 2 * int(S.count_nonzero())


def _error(dW: Tensor, parts: Parts) -> float:
    B, A, S = (part.double() for part in parts)
    return ((dW - B @ A - S).square().sum() / dW.square().sum()).item()


def _low(W: Tensor, r: int) -> tuple[Tensor, Tensor]:
    U, sigma, V = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * sigma[:r], V[:r]


def _largest(W: Tensor, k: int) -> Tensor:
    kept = torch.zeros(W.numel(), dtype=W.dtype)
    where = W.abs().flatten().topk(k).indices
    kept[where] = W.flatten()[where]
    return kept.view_as(W)


def _split(dW: Tensor, most: int, r: int, rounds: int) -> Parts:
    r"""Rank r and what is left of the budget for entries, each fitted in turn to what the other one leaves."""
    k = (most - r * sum(dW.shape)) // 2
    S = torch.zeros_like(dW)
    for _ in range(rounds):
        B, A = _low(dW - S, r)
        S = _largest(dW - B @ A, k)
    return B, A, S


def _ranks(dW: Tensor, most: int) -> range:
    return range(most // sum(dW.shape) + 1)


def parts(dW: Tensor, most: int, rounds: int = 40) -> Parts:
    r"""B (out, r), A (r, in) and S (out, in) that come near dW with at most `most` numbers."""
    return min((_split(dW, most, r, rounds) for r in _ranks(dW, most)), key=lambda found: _error(dW, found))


_POOR: dict[str, Callable[..., Parts]] = {
    "this is LoRA alone: a few large entries are of full rank, and no small r reaches them":
        lambda dW, most: (*_low(dW, _ranks(dW, most)[-1]), torch.zeros_like(dW)),
    "these are single entries alone: what all entries share is cheaper as a product of low rank":
        lambda dW, most: (dW[:, :0], dW[:0], _largest(dW, most // 2)),
    "the budget is halved between the two parts, whatever dW is made of: try every rank":
        lambda dW, most: _split(dW, most, most // sum(dW.shape) // 2, 40),
    "low rank was fitted once, to the large entries as well: fit it again to what the entries leave":
        lambda dW, most: parts(dW, most, rounds=1),
    "two rounds are too few: B A and S still pull at each other; go on until the error no longer falls":
        lambda dW, most: parts(dW, most, rounds=2),
}  # fmt: skip


def _near_enough(compare: Comparison, given: Any, case: Any, own: Any) -> str | None:
    r"""Right are parts within the budget that leave at most WORSE times what the course's own leave."""
    dW, most = case
    if type(given) is not tuple or len(given) != 3:
        return compare.difference(given, own)  # it says of which kind it is
    if wrong := _unlike(given, dW):
        return wrong
    given = tuple(part.detach() for part in given)
    if (used := cost(*given)) > most:
        return "these parts take more numbers than are allowed; an entry of S counts twice" + compare.exactly(
            f": {used}, where {most} are allowed"
        )
    reached = _error(dW, given) / _error(dW, own)
    if reached <= WORSE:
        return None
    return "B A + S is too far from dW" + compare.exactly(
        f": {reached:.2f} times the error of the course's own, at most {WORSE} are asked"
    )


def _unlike(given: tuple[Any, Any, Any], dW: Tensor) -> str | None:
    r"""What is wrong with the kinds and shapes of B, A and S."""
    if any(type(t) not in (Tensor, torch.nn.Parameter) or not t.is_floating_point() or t.dim() != 2 for t in given):
        return "B, A and S must be matrices of floating-point numbers"
    B, A, S = given
    if (B.shape[0], A.shape[1], B.shape[1]) != (*dW.shape, A.shape[0]) or S.shape != dW.shape:
        return "a shape does not fit: B is (out, r), A (r, in) and S (out, in), where dW is (out, in)"
    return None if all(t.isfinite().all() for t in given) else "a number is NaN or infinite"


def _update(draw: Draw) -> tuple[Tensor, int]:
    r"""A low-rank update, some large entries and noise. Kind 0 is mostly of low rank, kind 1 mostly entries."""
    while True:
        rows, columns = draw.whole(36, 44), draw.whole(28, 34)
        r, k = (draw.whole(4, 5), draw.whole(20, 35)) if draw.kind == 0 else (1, draw.whole(90, 120))
        low = draw.normal(rows, r) @ draw.normal(r, columns)
        S = torch.zeros(rows * columns, dtype=low.dtype)
        places = torch.tensor(draw.order(rows * columns)[:k])
        S[places] = (6 + 2 * draw.normal(k).abs()) * draw.normal(k).sign()
        dW, most = (low + S.view(rows, columns) + 0.1 * draw.normal(rows, columns), r * (rows + columns) + 2 * k)
        best = _error(dW, parts(dW, most))
        poor = min(_error(dW, wrong(dW, most)) for wrong in _POOR.values())
        honest = _error(dW, parts(dW, most, rounds=15))
        if poor > NEAR * WORSE * best and honest < WORSE / NEAR * best:
            return dW, most


PARTS = Exercise(
    id="hybrid-parts", points=4, difficulty=4, minutes=20,
    secret=_update, reference=parts, mutants=_POOR, kinds=2, judge=_near_enough,
)  # fmt: skip
