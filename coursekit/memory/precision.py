r"""Bytes that one parameter costs: weight, gradient and optimizer state, for each precision and optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coursekit.errors import unknown


@dataclass(frozen=True)
class Precision:
    r"""Bytes per element. `master` is a second copy of each trained weight, which the optimizer updates."""

    weight: int
    master: int = 0

    @property
    def state(self) -> int:
        r"""Bytes of one optimizer state: PyTorch's optimizers keep it in the precision of what they update."""
        return self.master or self.weight


PRECISIONS = {
    "fp32": Precision(4),
    "bf16": Precision(2),
    "fp16": Precision(2),
    # Micikevicius et al. 2018: compute in 16 bits, update in 32. The lecture's 20 + 20 + 120 GB.
    "mixed": Precision(2, master=4),
}

#: States for each trained parameter.
STATES = {"adamw": 2, "adamw8bit": 2, "sgd": 0, "sgd-momentum": 1}

#: bitsandbytes: states in blocks of 256 with one fp32 absmax each; tensors below 4096 elements stay in fp32.
BLOCK, SMALLEST = 256, 4096
#: Its two code tables (signed for momentum, unsigned for variance), 256 fp32 numbers each, one pair for all tensors.
TABLES = 2 * 256 * 4


def precision(name: str) -> Precision:
    r"""The precision called `name`; CourseError, with a suggestion, for a name that is none."""
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    return PRECISIONS[name]


def states(name: str | None) -> int:
    r"""How many states optimizer `name` keeps for each parameter."""
    if name is not None and name not in STATES:
        raise unknown("optimizer", name, STATES)
    return STATES[name] if name else 0


def optimizer_bytes(sizes: Iterable[int], optimizer: str | None, state: int, step: bool = True) -> int:
    r"""Bytes of optimizer state for trained tensors of these `sizes` (elements); `state`: bytes of one state.

    `step`: count Adam's step counters too, 4 bytes a tensor. They lie in host memory, so on a GPU they do not count.
    """
    sizes = list(sizes)
    n = states(optimizer)
    if optimizer == "adamw8bit":
        large = [s for s in sizes if s >= SMALLEST]
        blocks = sum(-(-s // BLOCK) for s in large)
        return n * (sum(large) + 4 * blocks + 4 * sum(s for s in sizes if s < SMALLEST)) + (
            TABLES if large else 0
        )
    counters = 4 * len(sizes) if optimizer == "adamw" and step else 0
    return n * state * sum(sizes) + counters
