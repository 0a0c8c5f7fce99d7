r"""Selective methods: whole tensors, and parts of them, which are lines of matrices, nodes, single numbers anywhere.

A product with a matrix of which a part trains keeps its input, as if all of the matrix trained, and puts the matrix
together once more in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coursekit import counts
from coursekit.architecture import Architecture, Matrix
from coursekit.memory.activations.training import Training, Written
from coursekit.memory.inserted.parts import Added, Inserted, place
from coursekit.methods.lora import LoRA


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


def lines(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""(k, in) of each matrix for rows, with k numbers of its bias where biases train, and (out, k) for columns."""
    matrices = method._matrices(config)
    biases = getattr(method, "biases", False)
    sizes = {m.name: [k * (m.d_out if method.setting == "columns" else m.d_in)] for m, k in matrices}
    for m, k in matrices:
        sizes[m.name] += [k] * (biases and m.bias)
    written = {m.name: Written(m.d_in * m.d_out, tokens=k) for m, k in matrices}
    return _parts(arch, [(m, i, sizes[m.name]) for m, _ in matrices for i in arch.layers_of(m)], written)


def nodes(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""Freeze and Reconfigure: the learners of each feed-forward matrix, and their biases."""
    layers = [(m, i) for i in range(arch.n_layers) for m in arch.feedforward if i in arch.layers_of(m)]
    learners = method.learners_of(config)
    sized = [(m, i, [k * m.d_in, *([k] * m.bias)]) for (m, i), k in zip(layers, learners, strict=True)]
    kinds = zip(arch.feedforward, learners, strict=False)
    return _parts(arch, sized, {m.name: Written(m.d_in * m.d_out, tokens=k) for m, k in kinds})


def shira(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""$r(d_{in}+d_{out})$ differences of each matrix."""
    matrices = method.named.matrices(config)
    sized = [(m, i, [method.r * (m.d_in + m.d_out)]) for m in matrices for i in range(arch.copies(m))]
    return _parts(arch, sized, {m.name: Written(m.d_in * m.d_out, dense=m.d_in * m.d_out) for m in matrices})


def _parts(arch: Architecture, sized: Iterable[tuple[Matrix, int, list[int]]], written: dict[str, Written]) -> Inserted:
    r"""Parts of the matrices, each with the number of its block and the sizes of its trainable tensors."""
    sized = list(sized)
    trained = {f"{arch.block_path(i)}.{m.name}.weight" for m, i, _ in sized}
    added = tuple(Added(size, i) for _, i, sizes in sized for size in sizes)
    return Inserted(Training(lambda path: path in trained, written=written), added)


def mask(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""Single numbers in all tensors that there are to choose from, as if each had the same share of them.

    Where they really are is known only when the mask is chosen. The totals are exact, up to the 4 bytes that an
    optimizer counts steps in for each tensor that has some.
    """
    k, among = method.count(config), method.among(config)
    if method.targets is None:
        found = {t.name: t.size for t in counts.body(arch) if arch.block_of(t.name) is not None}
        matrices = [m for m in arch.matrices if m.per_layer]
    else:
        matrices = LoRA(r=1, targets=method.targets).named.matrices(config)
        paths = [(path, m) for m in matrices for path in arch.paths(m)]
        found = {f"{path}.weight": m.d_in * m.d_out for path, m in paths}
    # Rounded so that the sum is k: what is left over at one tensor goes to the next.
    added, done = [], 0
    for path, size in found.items():
        share = k * (done + size) // among - k * done // among
        added += [Added(share, place(path, arch))] * bool(share)
        done += size
    written = {m.name: Written(m.d_in * m.d_out, dense=m.d_in * m.d_out) for m in matrices}
    return Inserted(Training(lambda path: path in found, written=written), tuple(added))
