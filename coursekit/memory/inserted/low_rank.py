r"""LoRA and whatever else puts a low-rank branch beside matrices: their steps are those of the matrices themselves."""

from __future__ import annotations

from typing import Any

from coursekit.architecture import Architecture, Matrix
from coursekit.errors import CourseError
from coursekit.memory.activations.training import Training
from coursekit.memory.inserted.parts import BEFORE, Added, Inserted, frozen


def low_rank(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""A, (r, in), and B, (out, r), for each of `method.matrices(config)`; with DoRA a magnitude, (out,)."""
    dora = bool(getattr(method, "dora", False))
    matrices, added = method.matrices(config), []
    if not _same_everywhere(method, arch, matrices, config):
        raise CourseError(
            "the memory model knows a LoRA with one r at the same matrices of all blocks, and this one has "
            "patterns, layers or whole modules of its own: measure it, or use bill(n, trained) for all but activations"
        )
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


def _same_everywhere(method: Any, arch: Architecture, matrices: list[Matrix], config: Any) -> bool:
    r"""Whether `method` does the same in all blocks, and nothing outside the body."""
    paths = method.named.layers(config)
    return (
        all(m in arch.matrices for m in matrices)
        and len(paths) == sum(arch.copies(m) for m in matrices)
        and all(method.at(path).r == method.r for path in paths)
        and not method.modules_to_save
        and not method.lora_bias
    )
