r"""What is kept for what is learned: the curve of plain fine-tuning's points, and how far another lies from it.

Without torch or transformers: a grader's judge loads it with the exercises.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

#: Perplexity of what is new and of what is old.
Point = tuple[float, float]


def curve(plain: Iterable[Point]) -> list[Point]:
    r"""Those of plain fine-tuning's points that no other is ahead of on both, from the one that learns most."""
    points = sorted(plain)
    return [p for p in points if not any(q[0] < p[0] and q[1] < p[1] for q in points)]


def gap(new: float, old: float, plain: Iterable[Point]) -> float:
    r"""`old` minus that of plain fine-tuning where it learns as much as `new`: straight lines between the points of
    its `curve`, in a picture with two logarithmic axes. `new` lies between the ends of the curve.
    """
    x, y = np.log(curve(plain)).T
    return old - math.exp(np.interp(math.log(new), x, y))
