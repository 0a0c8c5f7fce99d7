r"""Which rows or columns of a matrix: their indices, how many of the first ones, or the share of the first ones."""

from __future__ import annotations

from numbers import Real
from typing import Any

from coursekit.errors import CourseError

Which = tuple[int, ...] | int | float


def lines(which: Which, size: int) -> range | tuple[int, ...]:
    r"""The indices of the lines that `which` names among `size`: themselves, the first so many, or that share."""
    if isinstance(which, tuple):
        return which
    return range(which if isinstance(which, int) else max(1, round(which * size)))


def which(value: Any, field: str) -> Which:
    r"""`value` as a setting that `lines` understands; CourseError where it makes no sense."""
    if isinstance(value, (list, set, range)):
        value = tuple(value)
    whole: list[int] = [n for n in (value if isinstance(value, tuple) else (value,)) if isinstance(n, int)]
    good = not any(isinstance(n, bool) or n < 0 for n in whole)
    if isinstance(value, tuple):
        value = tuple(sorted(value)) if len(whole) == len(value) else value
        good = good and len(whole) == len(value) == len(set(whole)) > 0
    elif isinstance(value, int):
        good = good and value > 0
    else:
        good = isinstance(value, Real) and 0 < float(value) <= 1
    if not good:
        raise CourseError(
            f"{field} must be indices from 0 up, each once, such as (0, 5), how many of the first ones, such as 8, or "
            f"their share, such as 0.1; got {value!r}."
        )
    return value
