r"""Selective methods that train whole tensors: each is a copy of the base's, in its place."""

from __future__ import annotations

from typing import Any

from coursekit import counts
from coursekit.architecture import Architecture
from coursekit.memory.activations.training import Training, Written
from coursekit.memory.inserted.parts import Added, Inserted, place
from coursekit.methods.mechanism.anatomy import anatomy_of


def whole(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""A copy of each tensor that `method.picks`, and what autograd keeps for it."""
    return _inserted(_picked(method, arch), arch)


def biases(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""The same for BitFit, which can train a third of a bias, or one that the base does not have."""
    sizes = _picked(method, arch)
    if method._fused(arch):
        sizes |= {path: size // 3 for path, size in sizes.items() if path.endswith("attn.c_attn.bias")}
    for m in method._without(arch):
        if method._wants(m.name, arch):
            sizes |= {f"{path}.bias": m.d_out for path in arch.paths(m)}
    return _inserted(sizes, arch)


def _picked(method: Any, arch: Architecture) -> dict[str, int]:
    shapes = anatomy_of(arch)
    return {t.name: t.size for t in counts.body(arch) if method.picks(t.name, shapes)}


def _inserted(sizes: dict[str, int], arch: Architecture) -> Inserted:
    r"""Copies of the tensors at these paths, of these sizes."""
    written = {
        m.name: Written(m.d_in * m.d_out, dense=m.d_in * m.d_out, whole=True)
        for m in arch.matrices
        if any(f"{path}.weight" in sizes for path in arch.paths(m))
    }
    added = tuple(Added(size, place(path, arch)) for path, size in sizes.items())
    return Inserted(Training(lambda path: path in sizes, written=written), added)
