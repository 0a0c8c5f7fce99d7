r"""Errors a student or a grader sees: one line that says what is wrong and what to do; and the checks that raise them.

A check gives the value back, so that it can stand where the value is used: `r = whole("r", r, least=1, such_as=8)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any


class CourseError(Exception):
    r"""Something the caller can put right. Its text is one line, shown as it is, without a traceback."""


#: How an error ends whose cause lies with the machine.
DOCTOR = "; `coursekit doctor` tells more"


def machine(text: str) -> CourseError:
    r"""The error for what this machine lacks, which ends in the command that looks at all of it."""
    return CourseError(f"{text}{DOCTOR}")


def unknown(kind: str, name: object, known: Iterable[str]) -> CourseError:
    r"""The error for a `name` that is not among `known`, with the nearest known name as a suggestion."""
    known = sorted(known)
    by_lower = {k.lower(): k for k in known}
    near = get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    hint = f" did you mean {by_lower[near[0]]!r}?" if near else ""
    return CourseError(f"unknown {kind} {name!r};{hint} known: {', '.join(known)}")


def whole(
    name: str, value: Any, *, least: int | None = None, most: int | None = None, such_as: int | None = None
) -> int:
    r"""`value` where it is an integer within least…most; else a CourseError such as "r must be a positive integer,
    such as 8; got 0." True and False are no integers here.
    """
    fits = isinstance(value, Integral) and not isinstance(value, bool)
    if not fits or (least is not None and value < least) or (most is not None and value > most):
        kind = {None: "an integer", 0: "a non-negative integer", 1: "a positive integer"}.get(least)
        limits = [] if kind else [f"of at least {least}"]
        limits += [f"of at most {most}"] if most is not None else []
        raise _wrong(name, " ".join([kind or "an integer", " and ".join(limits)]).rstrip(), value, such_as)
    return int(value)


def number(
    name: str, value: Any, *, least: float | None = None, above: float | None = None, most: float | None = None,
    below: float | None = None, such_as: float | None = None,
) -> float:  # fmt: skip
    r"""`value` where it is a finite real number within the limits; else a CourseError.

    least and most belong to what is allowed, above and below do not.
    """
    fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    limits = {"of at least": least, "above": above, "of at most": most, "below": below}
    if fits:
        fits = (
            (least is None or value >= least)
            and (above is None or value > above)
            and (most is None or value <= most)
            and (below is None or value < below)
        )
    if not fits:
        words = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)
        raise _wrong(name, f"a number {words}".rstrip(), value, such_as)
    # Python's own, whatever library's it was: JSON and PyTorch know no others.
    return int(value) if isinstance(value, Integral) else float(value)


def share(name: str, value: Any, *, such_as: float | None = None) -> float:
    r"""`value` where it is a number from 0 to 1; else a CourseError."""
    return number(name, value, least=0, most=1, such_as=such_as)


def one_of(name: str, value: Any, known: Iterable[str]) -> str:
    r"""`value` where it is one of the words `known`; else a CourseError with the nearest of them."""
    known = list(known)
    if not isinstance(value, str) or value not in known:
        raise unknown(name, value, known)
    return value


def flag(name: str, value: Any) -> bool:
    r"""`value` where it is True or False; else a CourseError."""
    if not isinstance(value, bool):
        raise _wrong(name, "True or False", value, None)
    return value


def _wrong(name: str, wanted: str, value: Any, such_as: float | None) -> CourseError:
    example = "" if such_as is None else f", such as {such_as:g}"
    return CourseError(f"{name} must be {wanted}{example}; got {short(value)}.")


def keep(settings: Any, **values: Any) -> None:
    r"""Set fields of a frozen dataclass, where it is made: what a check gave back is what it keeps."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)


def short(value: Any) -> str:
    r"""The repr of `value` for an error, in one line and cut where it is long."""
    said = " ".join(repr(value).split())
    return said if len(said) <= 60 else f"{said[:57]}..."
