r"""The second exercise of notebook 07b_scales_and_formats: the straight-through estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.notebook import built


def straight(W: Tensor, rounded: Tensor) -> Tensor:
    r"""The values of `rounded`, the gradient of W."""
    return W + (rounded - W).detach()


def _seen(estimator: Callable[..., Any]) -> Callable[..., Any]:
    r"""What the stub's `quantization_straight` finds of an estimator: its values, and the gradient that reaches W."""
    return lambda *given: built.straight_through(estimator, *given)


def _secret(draw: Draw) -> tuple[Tensor, Tensor, int]:
    shape = draw.whole(2, 4), draw.whole(4, 7)
    return draw.normal(*shape), draw.normal(*shape), draw.whole(1, 3)


_WRONG: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the values are right, but what comes back is the gradient of Q itself, of its steps alone: detach something": (
        lambda W, rounded: rounded
    ),
    "the values are right, but no gradient comes back to W: something has to stay attached": (
        lambda W, rounded: rounded.detach()
    ),
    "the values are right, but a gradient comes back through the steps, too: detach all that stands beside W": (
        lambda W, rounded: W + rounded - W.detach()
    ),
    "the values are right, but the gradient is multiplied by Q(W)/W: add what is missing": (
        lambda W, rounded: W * (rounded / W).detach()
    ),
    "these are the values of W: nothing is rounded": lambda W, rounded: W,
    "this is the wrong way round: it has the values of W and the gradient of Q": (
        lambda W, rounded: rounded + (W - rounded).detach()
    ),
    "the sign is wrong: what is added to W is Q(W) - W": lambda W, rounded: W - (rounded - W).detach(),
    "this adds all of Q(W) to W: add only what rounding changes": lambda W, rounded: W + rounded.detach(),
    "this is only what rounding changes: W itself is missing": lambda W, rounded: (rounded - W).detach(),
}

STRAIGHT = Exercise(
    id="quantization-straight", points=2, difficulty=2, minutes=5,
    secret=_secret, reference=_seen(straight), part=straight,
    mutants={message: _seen(wrong) for message, wrong in _WRONG.items()},
)  # fmt: skip
