r"""LoRA and whatever else puts a low-rank branch beside matrices: their steps are those of the matrices themselves."""

from __future__ import annotations

from typing import Any

from coursekit.architecture import Architecture, Matrix
from coursekit.errors import CourseError
from coursekit.memory.activations.training import Rotation, Training
from coursekit.memory.inserted.parts import BEFORE, Added, Inserted, frozen
from coursekit.methods.oft import above_diagonal


def low_rank(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""A, (r, in), and B, (out, r), for each of `method.named.matrices(config)`; with DoRA a magnitude, (out,)."""
    dora = bool(getattr(method, "dora", False))
    matrices, added = method.named.matrices(config), []
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


def vera(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""b, (out,), and d, (r,), for each layer; A and B, as wide as the widest layer, once and frozen."""
    matrices = _of_blocks(method, config)
    added = [Added(size, i) for m in matrices for i in arch.layers_of(m) for size in (m.d_out, method.r)]
    widest = max(m.d_in for m in matrices) + max(m.d_out for m in matrices)
    names = frozenset(m.name for m in matrices)
    training = Training(frozen, names, method.r, method.dropout, vera=True)
    return Inserted(training, tuple(added), fixed=method.r * widest)


def oft(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""The upper half of each block of Q, (n, b (b - 1) / 2), for each layer; n is 1 with `share`."""
    added, rotations = [], {}
    for m in _of_blocks(method, config):
        b = method.size(m.d_in, m.name)
        n = 1 if method.share else m.d_in // b
        added += [Added(n * above_diagonal(b), i) for i in arch.layers_of(m)]
        powers = max(2, method.terms - 2) * (method.terms > 2) if method.neumann else 3
        rotations[m.name] = Rotation(n * b * b, m.d_in * b, powers, exact=not method.neumann)
    return Inserted(Training(frozen, frozenset(rotations), rotations=rotations), tuple(added))


def _of_blocks(method: Any, config: Any) -> list[Matrix]:
    r"""The matrices that get a branch. Raises CourseError where one of them is outside the blocks."""
    matrices = method.named.matrices(config)
    for m in matrices:
        if not m.per_layer:
            raise CourseError(
                f"the memory model knows {type(method).__name__} at the matrices of the blocks, and {m.name} is none: "
                "measure it, or use bill(n, trained) for all but activations"
            )
    return matrices


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
