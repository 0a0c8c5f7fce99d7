r"""The open exercise of notebook 00_training_cycle: preference tuning that keeps the chosen answers likely.

The model is small enough to be worked out: thirty possible answers, each a vector of E, and
$\ln \pi(\cdot \mid x) = \mathrm{log\,softmax}(E\,W x)$, with W to be trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from coursekit.checks.core import Arguments
from coursekit.checks.draw import Draw
from coursekit.checks.training import Training, TrainingCase, TrainingScore, fitted

#: Possible answers, their width, that of a prompt, and pairs to learn from and to be measured on.
ANSWERS, WIDTH, PROMPT, LEARN, MEASURE = 30, 6, 4, 200, 200
#: The chosen answer is the one of so many that is liked most; one of the others is rejected.
BEST_OF = 4
#: The margin that is asked for, in units of what learning the chosen answers alone gives.
ASKED = 1.3

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def log_pi(
    E: Float[Tensor, "answers width"], W: Float[Tensor, "width prompt"], x: Float[Tensor, "n prompt"]
) -> Float[Tensor, "n answers"]:
    r"""$\ln \pi(y \mid x)$ of every answer to every prompt, (n, answers)."""
    return (x @ W.T @ E.T).log_softmax(-1)


def _pose(draw: Draw) -> TrainingCase:
    r"""Answers are drawn from the model itself and liked by a taste that nobody is told."""
    n = LEARN + MEASURE
    E, W0 = draw.normal(ANSWERS, WIDTH), 0.5 * draw.normal(WIDTH, PROMPT)
    taste, x = draw.normal(WIDTH, PROMPT), draw.normal(n, PROMPT) / PROMPT**0.5
    edges = log_pi(E, W0, x).exp().cumsum(-1)
    drawn = torch.searchsorted(edges, draw.uniform(n, BEST_OF) * edges[:, -1:])
    liked = (x @ taste.T @ E.T).gather(1, drawn)
    best = liked.argmax(1)
    chosen, rejected = (drawn.gather(1, i[:, None])[:, 0] for i in (best, (best + 1) % BEST_OF))
    learned, kept = ((x[half], chosen[half], rejected[half]) for half in (slice(LEARN), slice(LEARN, n)))
    return TrainingCase((E, W0, *learned), (E, W0, kept, learned))


def new_pairs(seed: int = 0) -> tuple[Arguments, tuple[Tensor, Tensor, Tensor]]:
    r"""Data to try an answer on, other than the check's: its arguments, and 200 new pairs to measure on."""
    posing = _pose(Draw(b"the notebook's", f"pairs {seed}"))
    return posing.arguments, posing.kept[2]


def target(given: Arguments, new: tuple[Tensor, Tensor, Tensor]) -> float:
    r"""The margin that is asked on new pairs: 1.3 times what learning the chosen answers alone reaches."""
    E, W0, x, chosen, rejected = given
    imitated, known = log_ratios(E, _trained(E, W0, x, chosen, rejected, _imitation), W0, *new)
    return ASKED * (imitated - known)


def log_ratios(
    E: Tensor, W: Tensor, W0: Tensor, x: Float[Tensor, "n prompt"], chosen: Int[Tensor, " n"],
    rejected: Int[Tensor, " n"],
) -> tuple[float, float]:  # fmt: skip
    r"""Mean $\ln \pi/\pi_0$ of the chosen and of the rejected answers."""
    moved = log_pi(E, W, x) - log_pi(E, W0, x)
    one, other = (moved.gather(1, y[:, None]).mean().item() for y in (chosen, rejected))
    return one, other


def _score(posing: TrainingCase, tensors: dict[str, Tensor]) -> TrainingScore | str:
    r"""Half of the points for the margin, half for chosen answers that have not become less likely; new pairs."""
    E, W0, kept, learned = posing.kept
    if set(tensors) != {"W"}:
        return "it must return {'W': W}, and nothing else"
    W = tensors["W"]
    if W.shape != W0.shape:
        return "W has another shape: it is (6, 4), as W0 is"
    W = W.double()
    if torch.equal(W, W0):
        return "W is still W0: nothing was trained"
    chosen, rejected = log_ratios(E, W, W0, *kept)
    margin = chosen - rejected
    asked = target((E, W0, *learned), kept)
    share = (margin >= asked) / 2 + (margin > 0 and chosen >= 0) / 2
    measured = round(margin, 3) if math.isfinite(margin) else None
    if share == 1.0:
        return TrainingScore(1.0, "", measured)
    if margin < 0:
        said = "it prefers the rejected answers: have they changed places with the chosen ones?"
    elif chosen >= 0:
        said = f"the chosen answers hold, but the margin is {margin:.2f}, and {asked:.2f} are asked: what did the "
        said += "rejected ones teach?"
    else:
        said = f"the chosen answers became less likely than before, ln π/π₀ = {chosen:.2f}; the margin is {margin:.2f} "
        said += "and wide enough" if margin >= asked else f"of the {asked:.2f} that are asked"
    return TrainingScore(share, said, measured)


def _imitation(chosen: Tensor, rejected: Tensor, old_chosen: Tensor, old_rejected: Tensor) -> Tensor:
    return -chosen.mean()


def _dpo(chosen: Tensor, rejected: Tensor, old_chosen: Tensor, old_rejected: Tensor) -> Tensor:
    return -F.logsigmoid(0.1 * (chosen - old_chosen - rejected + old_rejected)).mean()


def _both(chosen: Tensor, rejected: Tensor, old_chosen: Tensor, old_rejected: Tensor) -> Tensor:
    return -F.logsigmoid(0.5 * (chosen - old_chosen - rejected + old_rejected)).mean() - 0.3 * chosen.mean()


def _trained(
    E: Tensor, W0: Tensor, x: Tensor, chosen: Tensor, rejected: Tensor, loss: Loss, steps: int = 200
) -> Tensor:
    W = W0.clone()
    old = [log_pi(E, W0, x).gather(1, y[:, None])[:, 0] for y in (chosen, rejected)]

    def found(_: int) -> Tensor:
        now = log_pi(E, W, x)
        return loss(*(now.gather(1, y[:, None])[:, 0] for y in (chosen, rejected)), *old)

    return fitted({"W": W}, found, steps, lr=0.05)["W"]


ALIGN = Training(
    id="training-cycle-align", points=4, difficulty=4, minutes=25,
    seconds=60, reached="the margin is {:.2f}", pose=_pose, score=_score,
    fair=lambda E, W0, x, chosen, rejected: {"W": _trained(E, W0, x, chosen, rejected, _both)},
    mutants={
        "W is still W0: nothing was trained": lambda E, W0, x, chosen, rejected: {"W": W0},
        "W has another shape: it is (6, 4), as W0 is": lambda E, W0, x, chosen, rejected: {"W": W0.T},
        "it prefers the rejected answers: have they changed places with the chosen ones?":
            lambda E, W0, x, chosen, rejected: {"W": _trained(E, W0, x, rejected, chosen, _dpo)},
    },
)  # fmt: skip
