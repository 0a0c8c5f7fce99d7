r"""What the activations depend on besides the architecture: batch, precision, kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
