r"""Selective methods that train whole tensors: each is a copy of the base's, in its place."""

from __future__ import annotations

from typing import Any

from coursekit import counts
from coursekit.architecture import Architecture
from coursekit.errors import CourseError
from coursekit.memory.activations import Training
from coursekit.memory.inserted.parts import AFTER, BEFORE, Added, Inserted


def whole(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""A copy of each tensor that `method.picks`, and what autograd keeps for it.

    Raises CourseError where the method trains something else as well, such as biases that the base does not have.
    """
    chosen = [t for t in counts.body(arch) if method.picks(t.name, arch)]
    if sum(t.size for t in chosen) != method.count(config):
        raise CourseError(
            f"the memory model knows {type(method).__name__} where whole tensors of the base train; "
            "use bill(n, trained) for the rest"
        )
    added = tuple(Added(t.size, _place(t.name, arch)) for t in chosen)
    return Inserted(Training(lambda path: method.picks(path, arch)), added)


def _place(path: str, arch: Architecture) -> int | str:
    r"""The number of the block that holds `path`, or which end of the body it is at."""
    number, _, _ = path.removeprefix(f"{arch.block}.").partition(".")
    if path.startswith(f"{arch.block}."):
        return int(number)
    before = [m.name for m in arch.matrices if m.kind == "embedding"] + (
        [] if arch.pre_norm else [*arch.outer_norms]
    )
    return BEFORE if path.startswith(tuple(f"{name}." for name in before)) else AFTER
