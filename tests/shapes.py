r"""The type checker behind `Float[Tensor, "batch seq"]` in the tests: shapes are promises, and these are checked.

Only functions that name a tensor's shape are checked. Whether `r=2.5` is a good rank is for the code itself to say,
in a line a student understands, and tests of those lines must reach it.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

#: Of each function the first calls in a test are checked, and one in so many of the others: a forward pass decodes each
#: weight of each layer by the same function.
FIRST, ONE_IN = 8, 16
#: The number of the test that runs.
test = 0

_CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand where a float is expected
_JAXTYPED = jaxtyping.jaxtyped


def install() -> Any:
    r"""Check every module of the package that is imported from here on. Keep what this returns.

    jaxtyping's hook would bind the arguments of functions without shapes too, at each call, and check nothing then.
    Where another version of it does not ask for `jaxtyping.jaxtyped`, it does just that.
    """
    jaxtyping.jaxtyped = _where_shapes_are_named
    return jaxtyping.install_import_hook("coursekit", "shapes.check")


def _where_shapes_are_named(*given: Any, **settings: Any) -> Any:
    made = _JAXTYPED(*given, **settings)
    return made if given else lambda thing: _often_enough(made, thing) if _names_shapes(thing) else thing


def _often_enough(made: Any, thing: Any) -> Any:
    checked = made(thing)
    if inspect.isclass(thing):
        return checked
    seen, calls = -1, 0

    @functools.wraps(thing)
    def either(*given: Any, **named: Any) -> Any:
        nonlocal seen, calls
        if seen != test:
            seen, calls = test, 0
        calls += 1
        return (checked if calls <= FIRST or calls % ONE_IN == 0 else thing)(*given, **named)

    return either


def _names_shapes(thing: Any) -> bool:
    try:  # an alias may speak of tensors too
        hints = get_type_hints(thing.__init__ if inspect.isclass(thing) else thing)
    except Exception:  # a name that is not there, or not yet: jaxtyping leaves out that one alone
        return True
    return any("Tensor" in str(hint) for hint in hints.values())


def check(function: Callable) -> Callable:
    r"""`function`, checked at run time where its annotations speak of shapes."""
    hints = map(str, getattr(function, "__annotations__", {}).values())
    return _CHECK(function) if any("Tensor" in hint for hint in hints) else function
