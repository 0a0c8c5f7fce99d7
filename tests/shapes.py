r"""The type checker behind `Float[Tensor, "batch seq"]` in the tests: shapes are promises, and these are checked.

Only functions that name a tensor's shape are checked. Whether `r=2.5` is a good rank is for the code itself to say,
in a line a student understands, and tests of those lines must reach it.
"""

from __future__ import annotations

from collections.abc import Callable

from beartype import BeartypeConf, beartype

_CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand where a float is expected


def check(function: Callable) -> Callable:
    r"""`function`, checked at run time where its annotations speak of shapes."""
    hints = map(str, getattr(function, "__annotations__", {}).values())
    return _CHECK(function) if any("Tensor" in hint for hint in hints) else function
