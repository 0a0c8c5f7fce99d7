r"""The one rule for a difference: better, worse, equal for practical purposes, or no clear difference.

Tables, pictures, the guide and the exercises of 10 ask `decide`, and nothing else decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

#: Below this the course would not choose by accuracy: three points. Its own choice, and a wide one.
MARGIN = 0.03
#: A verdict is wrong at most this often.
ALPHA = 0.05


class Verdict(StrEnum):
    r"""What a difference says of the first of two arms."""

    BETTER = "better"
    WORSE = "worse"
    EQUAL = "equal for practical purposes"
    UNCLEAR = "no clear difference"


def decide(low: float, high: float, p: float | None = None) -> Verdict:
    r"""The verdict on a difference with the 95 % interval `low` to `high`.

    An interval inside ±`MARGIN` is *equal for practical purposes*, even if it excludes 0: the difference is there, and
    too small to matter. p: adjusted for the other comparisons of a table (`holm`); without it, 0 outside the interval
    decides.
    """
    if low > -MARGIN and high < MARGIN:
        return Verdict.EQUAL
    if (low <= 0 <= high) if p is None else p > ALPHA:
        return Verdict.UNCLEAR
    return Verdict.BETTER if low + high > 0 else Verdict.WORSE


def non_inferior(low: float, margin: float = MARGIN) -> bool:
    r"""Whether the first arm loses at most `margin`: the low end of the difference lies above −`margin`."""
    return low > -margin


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    r"""P-values adjusted for being asked together (Holm, 1979).

    The smallest of m is multiplied by m, the next by m − 1, …, and none may be below the one before it.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for i, name in enumerate(sorted(ps, key=lambda name: ps[name])):
        largest = max(largest, min(1.0, (len(ps) - i) * ps[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in ps}


def in_words(value: float, low: float, high: float, p: float | None = None) -> str:
    r"""The verdict as a finding says it, in points of accuracy, such as "better by 3 points (1 to 5)"."""
    verdict, digits = decide(low, high, p), points_digits(low, high)

    def points(x: float, sign: str = "") -> str:
        return f"{100 * x:{sign}z.{digits}f}".replace("-", "−")

    if verdict is Verdict.EQUAL:
        return f"{verdict} (within {100 * MARGIN:.0f} points)"
    if verdict is Verdict.UNCLEAR:
        return f"{verdict} ({points(low, '+')} to {points(high, '+')} points)"
    size, near, far = (value, low, high) if verdict is Verdict.BETTER else (-value, -high, -low)
    unit = "point" if points(size) == "1" else "points"
    return f"{verdict} by {points(size)} {unit} ({points(near)} to {points(far)})"


def points_digits(low: float, high: float) -> int:
    r"""Decimals of a difference in points: none, but one where the interval is narrower than ±1 point or one of its
    ends would round to 0.
    """
    return int(high - low < 0.02 or any(0 < abs(end) < 0.005 for end in (low, high)))
