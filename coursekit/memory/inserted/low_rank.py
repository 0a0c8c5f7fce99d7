r"""LoRA and whatever else puts a low-rank branch beside matrices: their steps are those of the matrices themselves."""

from __future__ import annotations

from typing import Any

from coursekit.architecture import Architecture
from coursekit.errors import CourseError
from coursekit.memory.activations.training import Training
from coursekit.memory.inserted.parts import BEFORE, Added, Inserted, frozen


def low_rank(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""A, (r, in), and B, (out, r), for each of `method.matrices(config)`; with DoRA a magnitude, (out,)."""
    dora = bool(getattr(method, "dora", False))
    matrices, added = method.matrices(config), []
    for m in matrices:
        if method.r > min(m.d_in, m.d_out):
            raise CourseError(
                f"r={method.r} is above the rank that {m.name} can have: it is {m.d_out} x {m.d_in}, so take r up to "
                f"{min(m.d_in, m.d_out)}"
            )
        for place in arch.layers_of(m) or (BEFORE,):
            sizes = [method.r * m.d_in, method.r * m.d_out, *([m.d_out] if dora else [])]
            added += [Added(size, place) for size in sizes]
    names = frozenset(m.name for m in matrices)
    training = Training(frozen, names, method.r, getattr(method, "dropout", 0.0), dora)
    return Inserted(training, tuple(added))
