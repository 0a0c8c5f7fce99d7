r"""IntrinsicSAID: every weight is moved, so the moved weights are there beside the frozen ones, and so is G."""

from __future__ import annotations

from typing import Any

from coursekit import counts
from coursekit.architecture import Architecture
from coursekit.memory.activations.training import SAIDMemory, Training
from coursekit.memory.breakdown import Term
from coursekit.memory.inserted.parts import Added, Inserted
from coursekit.methods.intrinsic.fastfood import Fastfood


def said(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""v and $\lambda$, and what moves along them: all of the body, or its blocks."""
    blocks, everything = counts.blocks(arch), method.parts == "all"
    inside = sum(blocks)
    groups = [*blocks, *[counts.full(arch) - inside] * everything]
    scales = len(groups) if method.structure else 0
    F = Fastfood(method.d - scales, groups, method.seed)
    norm = arch.d_model * (2 if arch.norm == "layer" else 1)
    matrices = [m for m in arch.matrices if m.per_layer]
    used = sum(m.d_in * m.d_out for m in matrices) + len(arch.norms) * norm
    tables = sum(m.size for m in arch.matrices if m.kind == "embedding")
    outside = counts.full(arch) - inside - tables
    moved = SAIDMemory(F.n, tuple(groups), tuple(F.blocks), used, outside * everything, tables * everything)
    # Permutation and signs are drawn once and stay, like G.
    drawn = Term("directions: G, permutation, signs", "D", 4 * F.n * sum(F.blocks) + 8 * F.n + 4 * F.d)
    mixed = Term("directions: mixed", "groups n", 4 * F.n * len(groups))
    last = arch.n_layers - 1  # the backward pass comes there first, and the sum of gradients stays
    added = (Added(F.d, last), *([Added(scales, last)] if scales else []))
    training = Training(
        lambda path: path != "lm_head.weight" and (everything or arch.block_of(path) is not None), moved=moved
    )
    return Inserted(training, added, before=(mixed,), drawn=(drawn,))
