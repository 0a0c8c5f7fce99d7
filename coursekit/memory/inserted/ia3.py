r"""IA3: learned vectors that rescale keys, values and hidden units. Each keeps what it rescales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coursekit.architecture import Architecture, Matrix
from coursekit.memory.activations.builder import Builder
from coursekit.memory.activations.training import Part, Training
from coursekit.memory.inserted.parts import Added, Inserted, frozen
from coursekit.methods.mechanism.names import matches


@dataclass(frozen=True)
class Rescale(Part):
    r"""$l \odot x$ for what goes into, or comes out of, the matrix `name`."""

    place: str
    blocks: frozenset[int]
    name: str
    into: bool
    padded: bool  # a vector for some of the outputs is filled up with ones

    def write(self, b: Builder) -> None:
        s, matrix = b.setting, b.matrix(self.name)
        short, side = self.name.rsplit(".", 1)[-1], "in" if self.into else "out"
        width = matrix.d_in if self.into else matrix.d_out
        x = s.tokens * width * s.element
        # The down projection's input is the activation's output, which a relu keeps itself.
        down = self.into and matrix == [m for m in b.arch.matrices if m.per_layer][-1]
        name = "input of down" if down else f"{short}: {side}put"
        keeps = [] if down and b.arch.activation == "relu" and b.flows else [b.small(name, f"T {side}", x)]
        if self.padded:
            keeps.append(b.small(f"{short}: l with ones", side, width * s.full))
        b.flows = True
        # g and g x, which becomes the gradient of x; in 16 bits g in fp32 as well.
        wide = s.full * s.tokens * width
        work = b.live("T d") + x + wide * (2 if s.element < 4 else 1)
        b.add(f"rescale {short}", keeps, work, forward=wide + 2 * b.live("T d"))


def ia3(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""One vector for each scaled matrix: d_kv, d_kv and d_ff for the paper's targets."""
    targets, feedforward = method.names(arch)
    parts, added = [], []
    for m in arch.matrices:
        if m.kind == "embedding":
            continue
        paths = {i: arch.in_model(path) for i, path in zip(arch.layers_of(m) or (0,), arch.paths(m), strict=True)}
        blocks = [i for i, path in paths.items() if any(matches(path, t) for t in targets)]
        if not blocks:
            continue
        into = any(matches(paths[blocks[0]], t) for t in feedforward)
        size = m.d_in if into else _outputs(method, arch, m)
        padded = not into and size < m.d_out
        place = f"{'into' if into else 'out of'} {m.name}"
        parts.append(Rescale(place, frozenset(blocks), m.name, into, padded))
        added += [Added(size, i) for i in blocks]
    return Inserted(Training(frozen, parts=tuple(parts)), tuple(added))


def _outputs(method: Any, arch: Architecture, matrix: Matrix) -> int:
    r"""Scaled outputs: all, but of GPT-2's fused attention only keys and values where the targets are the paper's."""
    fused = method.targets is None and matrix.name == "attn.c_attn"
    return 2 * arch.d_kv if fused else matrix.d_out
