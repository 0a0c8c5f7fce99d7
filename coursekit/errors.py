r"""Errors a student or a grader sees: one line that says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class CourseError(Exception):
    r"""Something the caller can put right. Its text is one line, shown as it is, without a traceback."""


def unknown(kind: str, name: object, known: Iterable[str]) -> CourseError:
    r"""The error for a `name` that is not among `known`, with the nearest known name as a suggestion."""
    known = sorted(known)
    by_lower = {k.lower(): k for k in known}
    near = get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    hint = f" did you mean {by_lower[near[0]]!r}?" if near else ""
    return CourseError(f"unknown {kind} {name!r};{hint} known: {', '.join(known)}")
