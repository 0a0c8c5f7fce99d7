r"""Selective methods that train whole tensors: each is a copy of the base's, in its place."""

from __future__ import annotations

from typing import Any

from coursekit.architecture import Architecture
from coursekit.memory.activations.training import Training, Written
from coursekit.memory.inserted.parts import Added, Inserted, place


def whole(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""Copies of the tensors that train, of the sizes that the method gives, and what autograd keeps for them."""
    sizes = method.sizes(config)
    written = {
        m.name: Written(m.d_in * m.d_out, dense=m.d_in * m.d_out, whole=True)
        for m in arch.matrices
        if any(f"{path}.weight" in sizes for path in arch.paths(m))
    }
    added = tuple(Added(size, place(path, arch)) for path, size in sizes.items())
    return Inserted(Training(lambda path: path in sizes, written=written), added)
