r"""The open exercise of notebook 12_ship_it: one LoRA for two tasks, as good as possible at the one it does worse.

How much of an update matters depends on what its layer reads. The course's own answer weighs by the inputs of both
tasks, as RegMean (Jin et al. 2023, arXiv:2212.09849) does, and cuts to rank r in the metric of these inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coursekit.checks.compare import Comparison
from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.checks.training import fitted

#: How much worse than the course's own an answer may be.
ROOM = 1.25
#: How much worse than the course's own half the steps of a descent may be, in a case that is asked.
EASY = 1.1
D_OUT, D_IN, N, R = 12, 16, 40, 3

Factors = tuple[Tensor, Tensor]
Tensors = list[Tensor]


def pissa(W: Tensor, r: int, scale: float) -> Factors:
    r"""The course's own, imported when it is asked: transformers comes with it."""
    from coursekit.methods import lora_starts

    return lora_starts.pissa(W, r, scale)


def errors(M: Tensor, updates: Tensors, inputs: Tensors) -> Tensors:
    r"""Of each task the share of what its update D does to its inputs that M misses: $|X(M-D)^T|^2 / |XD^T|^2$."""
    pairs = zip(updates, inputs, strict=True)
    return [(X @ (M - D).T).square().sum() / (X @ D.T).square().sum() for D, X in pairs]


def weighed(updates: Tensors, inputs: Tensors, r: int, share: float) -> Factors:
    r"""A and B of rank r with the smallest share * error of the first task + (1 - share) * that of the second."""
    C = [X.T @ X / (X @ D.T).square().sum() for D, X in zip(updates, inputs, strict=True)]
    both = share * C[0] + (1 - share) * C[1]
    both = both + 1e-9 * both.trace() * torch.eye(len(both), dtype=both.dtype)
    best = torch.linalg.solve(both, (share * updates[0] @ C[0] + (1 - share) * updates[1] @ C[1]).T).T
    L = torch.linalg.cholesky(both)  # |M X|^2 = |M L|^2
    A, B = pissa(best @ L, r, 1.0)
    return torch.linalg.solve_triangular(L, A, upper=False, left=False), B


def blended(updates: Tensors, inputs: Tensors, r: int) -> Factors:
    r"""The share at which both errors are equal, found by halving."""
    low, high, found = 0.0, 1.0, []
    for _ in range(30):
        share = (low + high) / 2
        A, B = weighed(updates, inputs, r, share)
        one, other = errors(B @ A, updates, inputs)
        found.append((max(one, other), A, B))
        low, high = (share, high) if one > other else (low, share)
    return min(found, key=lambda f: f[0])[1:]


def descended(updates: Tensors, inputs: Tensors, r: int) -> Factors:
    r"""What the hints lead to: Adam on the larger error, from the best matrix of rank r for the sum of the updates."""
    found = dict(zip("AB", pissa(updates[0] + updates[1], r, 1.0), strict=True))
    loss = lambda _: max(errors(found["B"] @ found["A"], updates, inputs))  # noqa: E731
    found = fitted(found, loss, steps=400, lr=0.03, falling=True)
    return found["A"], found["B"]


def worse(factors: Factors, updates: Tensors, inputs: Tensors) -> float:
    r"""The larger of the two errors of BA."""
    return float(max(errors(factors[1] @ factors[0], updates, inputs)))


def _secret(draw: Draw) -> tuple[Tensors, Tensors, int]:
    # Each task's inputs vary in some directions much more than in others, and one update is larger than the other.
    while True:
        updates, inputs = [], []
        for size in (1.0, draw.real(1.3, 2, 2)):
            updates.append(size * draw.normal(D_OUT, R) @ draw.normal(R, D_IN))
            spread = torch.tensor([0.8**i for i in draw.order(D_IN)], dtype=torch.float64)
            inputs.append(draw.normal(N, D_IN) * spread)
        # In one draw of a hundred a descent is caught well above the least: nobody shall lose points to that.
        reached, best = (worse(how(updates, inputs, R), updates, inputs) for how in (descended, blended))
        if reached < EASY * best:
            return updates, inputs, R


def _good_enough(compare: Comparison, given: Any, case: Any, own: Any) -> str | None:
    r"""Right is what does the worse of the two tasks nearly as well as the course's own answer."""
    updates, inputs, r = case
    if type(given) not in (tuple, list) or len(given) != 2:
        return "it must return A and B"
    if any(type(x) is not Tensor for x in given):
        return "A and B must be tensors"
    A, B = (x.detach().double() for x in given)
    if A.dim() != 2 or B.dim() != 2 or A.shape[1] != D_IN or len(B) != D_OUT or len(A) != B.shape[1]:
        return f"A is {tuple(A.shape)} and B {tuple(B.shape)}; they must be (r, in) and (out, r)"
    if len(A) > r:
        return f"A has {len(A)} rows, r = {r} are allowed"
    if not (A.isfinite().all() and B.isfinite().all()):
        return "A or B holds NaN or infinity"
    found, best = worse((A, B), updates, inputs), worse(own, updates, inputs)
    if found <= ROOM * best:
        return None
    return "the worse of the two tasks loses too much" + compare.exactly(
        f": {found:.2%} of its update's effect; the course's own loses {best:.2%}, and you may lose {ROOM * best:.2%}"
    )


BLEND = Exercise(
    id="ship-blend", points=4, difficulty=4, minutes=22,
    secret=_secret, reference=blended, judge=_good_enough,
    mutants={
        "the inputs are not used: this is the best rank-r matrix for the sum of the updates":
            lambda updates, inputs, r: pissa(updates[0] + updates[1], r, 1.0),
        "the inputs are not used, and half of each update is too little":
            lambda updates, inputs, r: pissa((updates[0] + updates[1]) / 2, r, 1.0),
        "this is the first adapter alone": lambda updates, inputs, r: pissa(updates[0], r, 1.0),
        "this is the second adapter alone": lambda updates, inputs, r: pissa(updates[1], r, 1.0),
        "this is 0: nothing of either task is kept": lambda updates, inputs, r: pissa(0 * updates[0], r, 1.0),
    },
)  # fmt: skip
