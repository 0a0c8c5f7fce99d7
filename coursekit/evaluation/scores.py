r"""Measured values that carry their uncertainty with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from jaxtyping import Bool, Float
from torch import Tensor

from coursekit.errors import whole


@dataclass(frozen=True, eq=False)
class Score:
    r"""A share of successes: `value` = successes / `n`, with the 95 % Wilson interval `low`–`high`.

    correct: which of the `n` cases were successes, in the order of the data, for paired comparisons.
    The interval is about the sample of test cases alone: another seed in training moves the value too.
    """

    value: float
    n: int
    low: float
    high: float
    correct: Bool[Tensor, " n"]

    @classmethod
    def of(cls, correct: Bool[Tensor, " n"]) -> Score:
        r"""The score of a list of successes and failures."""
        correct = correct.cpu()
        n, successes = len(correct), int(correct.sum())
        return cls(successes / n if n else math.nan, n, *wilson(successes, n), correct)

    def __repr__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f}, n={self.n})"


def pairs_in_order(lean: Float[Tensor, " n"], good: Bool[Tensor, " n"]) -> float:
    r"""Of all pairs of a good case and a bad one, the share in which the good one leans more: the area under the ROC
    curve. No threshold is in it, so a model that leans to one side throughout loses nothing; guessing gets 0.5.
    """
    return (lean[good][:, None] > lean[~good]).float().mean().item()


def wilson(successes: int, n: int) -> tuple[float, float]:
    r"""Wilson's score interval of a share, at 95 % (E. B. Wilson, JASA 22, 1927, p. 209–212).

    $$\frac{p + z^2/2n \pm z\sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}$$

    Unlike p ± z·s it stays within 0…1 and does not shrink to nothing when all cases agree.
    """
    n, successes = whole("n", n, least=0), whole("successes", successes, least=0, most=n)
    if not n:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.975)
    p = successes / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the limits are 0 and 1 exactly, which rounding would miss.
    low = (centre - spread) / scale if successes else 0.0
    high = (centre + spread) / scale if successes < n else 1.0
    return low, high
