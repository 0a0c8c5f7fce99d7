r"""Steps of a block, and the most that is alive while the backward pass goes through them.

What is alive when, for three steps that keep k1, k2, k3 and need f1, f2, f3 for a moment in the forward pass and
w1, w2, w3 in the backward pass:

    forward  -->   k1 + f1      k1 + k2 + f2      k1 + k2 + k3 + f3
    backward <--   k1 + w1      k1 + k2 + w2      k1 + k2 + k3 + w3

A step lets go of what it kept when its backward has run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from coursekit.memory.breakdown import Term, summed


@dataclass(frozen=True)
class Setting:
    r"""One training step. `tokens` is T in the formulas, `keys` is K."""

    batch: int
    seq: int
    element: int  # bytes of one activation: 4 in fp32, 2 in bf16 and fp16
    attention: str  # "flash" (fused), "math" (PyTorch's unfused kernel) or "eager" (transformers' own)
    padded: bool  # whether the batch has a real padding mask
    on_gpu: bool
    prompt: int = 0  # so many of `seq` are virtual tokens, put before the text
    prefix: int = 0  # keys and values of so many virtual tokens stand before those of the tokens
    #: Matrices in codes: bytes of the weight while it is multiplied with, and of what unpacking takes before that.
    unpacked: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        r"""T = batch x sequence."""
        return self.batch * self.seq

    @property
    def keys(self) -> int:
        r"""K = batch x keys of a row: T, and more behind a prefix."""
        return self.batch * (self.seq + self.prefix)

    @property
    def half(self) -> bool:
        r"""Whether the activations have 16 bits."""
        return self.element < 4

    @property
    def full(self) -> int:
        r"""Bytes of one element of what a method adds: never less than fp32."""
        return max(self.element, 4)

    @property
    def noise(self) -> int:
        r"""Bytes that a dropout keeps of each element: a bool on the GPU, the scaled mask itself on the CPU."""
        return 1 if self.on_gpu else self.element


class Early(NamedTuple):
    r"""Of a step whose kept tensors are there before its product: a recomputation stops there. Bytes."""

    forward: int  # f, as far as it goes
    waits: int  # the gradient of the product's input, which is computed before the recomputation
    work: int  # w after it


@dataclass(frozen=True)
class Step:
    r"""One step of a block. Nothing is counted twice: what two steps keep together belongs to the first of them."""

    name: str
    keeps: tuple[Term, ...] = ()  # until its backward has run
    work: int = 0  # w: bytes of gradients alive while its backward runs
    #: f: bytes alive beside what is kept while its forward runs. None: no more than `forward.peak` knows of.
    forward: int | None = None
    holds: int = 0  # of f, bytes that stay until the block's forward ends
    early: Early | None = None
    leaves: int = 0  # gradients of moved weights, which stay until the block's backward ends


def kept(steps: Iterable[Step]) -> int:
    r"""Bytes that `steps` keep until the backward pass."""
    return sum(summed(s.keeps) for s in steps)


def backward_peak(steps: Sequence[Step], beside: bool = False) -> int:
    r"""Most bytes alive while the backward goes through `steps`: later steps have let go, this one works.

    beside: moved weights stay, and do not make room for their gradients.
    """
    before, most, left = 0, 0, sum(step.leaves for step in steps) * beside
    for step in steps:
        before += summed(step.keeps)
        left -= step.leaves * beside
        most = max(most, before + step.work + left)
    return most
