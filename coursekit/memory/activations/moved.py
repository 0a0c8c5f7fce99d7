r"""IntrinsicSAID: all weights are moved along directions, $\theta = \theta_0 + F(v)$, once in each pass."""

from __future__ import annotations

from dataclasses import dataclass

from coursekit.memory.activations.setting import Setting
from coursekit.methods.intrinsic.fastfood import CHUNK


@dataclass(frozen=True)
class SAIDMemory:
    r"""All weights, moved: a group for each block and, where everything moves, one for the rest."""

    n: int  # rows of a block of the random matrix
    groups: tuple[int, ...]  # weights of each group
    blocks: tuple[int, ...]  # of n rows, for each group
    used: int  # of a block's weights those that its backward pass asks for: all but the biases
    outside: int  # the same of the rest, embeddings and output layer aside
    tables: int  # of the rest those that no backward pass asks for: embeddings

    def forward(self, group: int, s: Setting) -> int:
        r"""Bytes while a group is computed: its part of F(v), in chunks and put together."""
        padded = 4 * self.n * self.blocks[group]
        return padded + max(padded, 2 * self._chunk(group, s))

    def backward(self, group: int, s: Setting) -> int:
        r"""Bytes while the gradient of a group becomes one of v, beside the gradient itself."""
        copies = 4 * self.groups[group] if s.half else 0
        return copies + 4 * self.n * self.blocks[group] + 2 * self._chunk(group, s)

    def _chunk(self, group: int, s: Setting) -> int:
        blocks = self.blocks[group]
        return 4 * self.n * (blocks if s.on_gpu else min(blocks, max(1, CHUNK // self.n)))
