r"""What a method trains, and what it inserts into the blocks, as far as activations depend on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from coursekit.memory.activations.step import Setting
from coursekit.methods.intrinsic.fastfood import CHUNK

#: Places of a block where a method can insert something: the attention's result before the output projection and
#: after it (before the dropout of blocks that drop out by themselves, else after it), the same of the feed-forward,
#: and the block's result.
PLACES = ("attention", "attention output", "feed-forward output", "block output")


class Part(ABC):
    r"""Something that a method inserts into blocks, at one place of each."""

    #: One of `PLACES`, or "into" or "out of" and the name of a matrix.
    place: str
    blocks: frozenset[int]

    @abstractmethod
    def write(self, b: Any) -> None:
        r"""Add the steps of this part to the block that `b`, a `Builder`, is writing down."""


@dataclass(frozen=True)
class Written:
    r"""What a product with $\tilde W$, put together in each pass, takes for a moment: elements, not bytes."""

    weight: int = 0  # the matrix that is put together, in the forward and in the backward
    dense: int = 0  # the gradient of the matrix, before that of the values is taken from it
    tokens: int = 0  # of each token, what the gradient of the values is computed from
    whole: bool = False  # all of it trains: in fp32 nothing has to be put together


@dataclass(frozen=True)
class SAIDMemory:
    r"""IntrinsicSAID: all weights are moved along directions, $\theta = \theta_0 + F(v)$, once in each pass. A group
    for each block and, where everything moves, one for the rest.
    """

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


@dataclass(frozen=True)
class Rotation:
    r"""OFT: an orthogonal matrix before a layer, and what the formula that makes it keeps."""

    size: int  # elements of the blocks that are made
    whole: int  # the same where one block that all share counts as often as it is used
    powers: int  # tensors of that size that its formula keeps
    exact: bool  # R is one of them; else it is kept for the gradient of the input


@dataclass(frozen=True)
class Training:
    r"""Base weights that train, by name; LoRA branches, by matrix; and what a method inserts into the blocks."""

    trains: Callable[[str], bool]  # path in the body, with ".weight" or ".bias" -> is this one trained
    low_rank: frozenset[str] = frozenset()  # names of the adapted matrices
    r: int = 0
    dropout: float = 0.0
    dora: bool = False
    vera: bool = False  # A and B are frozen: the branch keeps what its two vectors scale, and not what it reads
    #: OFT, in the place of a low-rank branch: what turns the input of each adapted matrix, by name.
    rotations: Mapping[str, Rotation] = field(default_factory=dict)
    gated: bool = False  # each low-rank branch is scaled by a gate
    parts: tuple[Part, ...] = ()
    norm_copies: bool = False  # the norms that train are copies of the base's, in fp32
    #: Matrices that are put together anew in each pass, with the values that train in their places, by name.
    written: Mapping[str, Written] = field(default_factory=dict)
    moved: SAIDMemory | None = None  # all that `trains` is computed from the frozen weights, once in each pass

    def weight(self, path: str) -> bool:
        r"""Whether the weight at `path` is trained."""
        return self.trains(f"{path}.weight")

    def any_of(self, path: str) -> bool:
        r"""Whether weight or bias at `path` is trained."""
        return self.weight(path) or self.trains(f"{path}.bias")

    def touches(self, path: str, name: str) -> bool:
        r"""Whether anything of the matrix at `path`, called `name` in its block, is trained, LoRA included."""
        return name in self.low_rank or self.any_of(path)

    def copies_norm(self, path: str) -> bool:
        r"""Whether the norm at `path` is a trained fp32 copy of the base's."""
        return self.norm_copies and self.any_of(path)
