r"""Bytes that one parameter costs: weight, gradient and optimizer state, for each precision and optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coursekit.errors import one_of
from coursekit.quantization.dynamic import BLOCK, SMALLEST


@dataclass(frozen=True)
class Precision:
    r"""Bytes per element. `master` is a second copy of each trained weight, which the optimizer updates."""

    weight: int
    master: int = 0

    @property
    def state(self) -> int:
        r"""Bytes of one optimizer state: PyTorch's optimizers keep it in the precision of what they update."""
        return self.master or self.weight

    @classmethod
    def of(cls, name: str) -> Precision:
        r"""The precision called `name`; CourseError, with a suggestion, for a name that is none."""
        return PRECISIONS[one_of("precision", name, PRECISIONS)]


PRECISIONS = {
    "fp32": Precision(4),
    "bf16": Precision(2),
    "fp16": Precision(2),
    # Micikevicius et al. 2018: compute in 16 bits, update in 32. The lecture's 20 + 20 + 120 GB.
    "mixed": Precision(2, master=4),
}

#: States for each trained parameter.
STATES = {"adamw": 2, "adamw8bit": 2, "sgd": 0, "sgd-momentum": 1}

#: Bytes of the two code tables of 8-bit states (signed for momentum, unsigned for variance), one pair for all tensors.
TABLES = 2 * 256 * 4


def states(name: str | None) -> int:
    r"""How many states optimizer `name` keeps for each parameter."""
    return 0 if name is None else STATES[one_of("optimizer", name, STATES)]


def optimizer_bytes(sizes: Iterable[int], optimizer: str | None, state: int, step: bool = True) -> int:
    r"""Bytes of optimizer state for trained tensors of these `sizes` (elements); `state`: bytes of one state.

    `step`: count Adam's step counters too, 4 bytes a tensor. They lie in host memory, so on a GPU they do not count.
    """
    sizes = list(sizes)
    n = states(optimizer)
    if optimizer == "adamw8bit":
        large = [s for s in sizes if s >= SMALLEST]
        blocks = sum(-(-s // BLOCK) for s in large)
        return n * (sum(large) + 4 * blocks + 4 * sum(s for s in sizes if s < SMALLEST)) + (TABLES if large else 0)
    counters = 4 * len(sizes) if optimizer == "adamw" and step else 0
    return n * state * sum(sizes) + counters
