r"""Bytes of a base whose linear layers are in codes of a few bits: closed forms, from shapes alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from coursekit.architecture import Architecture
from coursekit.counts import Named
from coursekit.errors import flag
from coursekit.methods.mechanism.names import matches
from coursekit.quantization.bit_stream import packed_bytes
from coursekit.quantization.blocks import DECODED
from coursekit.quantization.checks import block_of
from coursekit.quantization.codes import code
from coursekit.quantization.dynamic import BLOCK
from coursekit.quantization.fused import LARGE


class Unpacked(NamedTuple):
    r"""Bytes of a matrix while it is multiplied with, and of what comes and goes before that."""

    weight: int = 0
    scratch: int = 0


@dataclass(frozen=True)
class Quantized:
    r"""The settings of `quantize_model`: QLoRA's own by default."""

    code: str = "nf4"
    block: int = 64
    double: bool = True
    skip: tuple[str, ...] = ("lm_head",)

    def __post_init__(self) -> None:
        code(self.code)
        block_of(self.block, self._bits)
        flag("double", self.double)
        object.__setattr__(self, "skip", (self.skip,) if isinstance(self.skip, str) else tuple(self.skip))

    @property
    def _bits(self) -> int:
        return (len(code(self.code)) - 1).bit_length()

    def nbytes(self, size: int) -> int:
        r"""Bytes of a matrix of `size` weights. With k bits and blocks of B, for sizes that fit the blocks,

        $\frac{k}{8} + \frac{4}{B}$ a weight; with `double` $\frac{k}{8} + \frac{1}{B} + \frac{4}{256 B}$, and
        4 bytes for the mean of the scales.
        """
        blocks = -(-size // self.block)
        scales = blocks + 4 * -(-blocks // BLOCK) + 4 if self.double else 4 * blocks
        return packed_bytes(size, self._bits) + scales

    def matrices(self, arch: Architecture) -> frozenset[str]:
        r"""Names of the matrices that are in codes, as `Architecture` has them."""
        return frozenset(
            m.name
            for m in arch.matrices
            if m.kind in ("linear", "conv1d") and not any(matches(arch.path(m), name) for name in self.skip)
        )

    def unpacked(self, size: int, element: int, on_gpu: bool) -> Unpacked:
        r"""What it takes to multiply with a matrix of `size` weights, in `element` bytes each.

        On a CPU it is unpacked in parts, which take an index (4 bytes for two codes) and an fp32 number for each
        weight of a part; on a GPU a large one by one kernel. Scales in 8 bits are unpacked first.
        """
        part = min(size, DECODED) if not on_gpu else size * (size < LARGE)
        scales = 4 * -(-size // self.block) if self.double else 0
        return Unpacked(element * size, 6 * part + scales)

    def sizes(self, arch: Architecture, element: int, on_gpu: bool) -> dict[str, Unpacked]:
        r"""`unpacked` of each matrix that is in codes, by its name."""
        names = self.matrices(arch)
        return {m.name: self.unpacked(m.d_in * m.d_out, element, on_gpu) for m in arch.matrices if m.name in names}

    def weights(self, arch: Architecture, tensors: Iterable[Named], element: int) -> int:
        r"""Bytes of `tensors` of the model of `arch`; `element`: those of a number that is not in codes."""
        paths = {
            f"{arch.in_model(path)}.weight"
            for m in arch.matrices
            if m.name in self.matrices(arch)
            for path in arch.paths(m)
        }
        return sum(self.nbytes(t.size) if t.name in paths else element * t.size for t in tensors)
