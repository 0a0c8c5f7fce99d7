r"""What a notebook goes on with after an exercise: the student's own function, as soon as it is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coursekit.checks.core import check, exercises


def yours(id: str, answer: Callable[..., Any]) -> Callable[..., Any]:
    r"""`answer` where it passes the check of exercise `id`, else the course's own, and a line that says which."""
    passed = check(id, answer).status == "passed"
    print(f"{id}: this cell runs {'yours' if passed else 'the course’s, until yours passes its check'}")
    return answer if passed else exercises()[id].reference
