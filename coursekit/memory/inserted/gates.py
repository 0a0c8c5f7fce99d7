r"""UniPELT: a gate for each of its parts, $g(x) = \frac{1}{T} \sum_t \sigma(w \cdot x_t + b)$.

A gate keeps what it reads and T sigmoids; what it scales is kept as well, for the gradient of g.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from coursekit.architecture import Architecture
from coursekit.memory.activations.builder import Builder
from coursekit.memory.activations.training import Part
from coursekit.memory.inserted import adapters, low_rank, soft_prompts
from coursekit.memory.inserted.parts import Inserted, each_block, together


@dataclass(frozen=True)
class PrefixGate(Part):
    r"""The gate of a prefix: it reads what the attention reads."""

    blocks: frozenset[int]
    n: int
    place: str = "attention"

    def write(self, b: Builder) -> None:
        s, kv = b.setting, b.arch.d_kv
        keeps = [b.small("prefix gate: keys, values", "2 n kv", 2 * self.n * kv * s.full)]
        if s.element < 4:
            keeps.append(b.term("prefix gate: input in fp32", "T d", s.full))
        keeps.append(b.small("prefix gate", "2 T", 2 * s.tokens * s.full))
        b.add("prefix gate", keeps, b.live("2*T d"), forward=0)


def unipelt(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""Prefix, adapter and LoRA with their gates."""
    prefix, adapter, lora = method.parts_for(config)
    blocks, d = range(arch.n_layers), arch.d_model
    one = soft_prompts.prefix_tuning(prefix, arch, config)
    two = adapters.adapter(adapter, arch, config)
    three = low_rank.low_rank(lora, arch, config)
    scaled = tuple(replace(part, scaled=True) for part in two.training.parts)
    two = replace(two, training=replace(two.training, parts=scaled))
    three = replace(three, training=replace(three.training, gated=True))
    found = together([one, two, three])
    widths = [d, d, *(m.d_in for m in lora.named.matrices(config))]
    gates = each_block([size for width in widths for size in (width, 1)], blocks)
    training = found.training
    training = replace(training, parts=(PrefixGate(frozenset(blocks), prefix.n), *training.parts))
    return replace(found, training=training, added=(*found.added, *gates))
