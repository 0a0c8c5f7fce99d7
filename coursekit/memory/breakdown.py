r"""The bill: where the bytes of a training run go. Predicted and measured ones have the same fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

#: Units. Vendors, papers and the lecture count in GB = 10^9 bytes; a card's "24 GB" and `nvidia-smi` mean GiB = 2^30.
GB = 10**9
GiB = 2**30
MB = 10**6


@dataclass(frozen=True)
class Term:
    r"""One tensor (or several alike) that autograd keeps for the backward pass."""

    name: str
    formula: str  # elements, in the symbols of `coursekit.memory.activations`
    bytes: int

    def __str__(self) -> str:
        return f"{self.name:<34} {self.formula:<16} {self.bytes / MB:10.3f} MB"


@dataclass(frozen=True)
class Point:
    r"""One moment of a training step, for a curve of memory over time."""

    label: str
    activations: int  # bytes, temporaries included
    gradients: int  # bytes of parameter gradients that exist by then


@dataclass(frozen=True)
class Breakdown:
    r"""Bytes by what they are for.

    activations: the most that is alive at any moment between the start of the forward and the end of the backward
    pass and is neither weights, buffers, parameter gradients, optimizer state nor the batch itself. `kept` of it is
    there when the forward pass ends, waiting for the backward pass; the rest comes on top at the worst moment.

    total adds all categories up. `peak` is the most that is alive together, and is smaller: the gradients arrive
    while the activations go.
    """

    weights: int = 0
    master: int = 0  # a second copy of 16-bit weights in fp32, which the optimizer updates
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    kept: int = 0
    timeline: tuple[Point, ...] = field(default=(), repr=False)
    terms: tuple[Term, ...] = field(default=(), repr=False)  # of `kept`
    block: tuple[Term, ...] = field(default=(), repr=False)  # what one block in the middle keeps
    buffers: int = 0  # measured only
    batch: int = 0  # measured only

    @property
    def states(self) -> int:
        r"""Everything but activations: weights, master weights, gradients, optimizer state."""
        return self.weights + self.master + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        r"""The sum of all categories."""
        return self.states + self.activations

    @property
    def peak(self) -> int:
        r"""The most that is alive at once, without the optimizer's own temporaries."""
        moving = max((p.activations + p.gradients for p in self.timeline), default=0)
        # Between backward and update all gradients exist.
        return self.weights + self.master + self.optimizer + max(moving, self.gradients)

    def rows(self) -> list[tuple[str, int]]:
        r"""(category, bytes) of the categories that add up to `total`: data for a bar chart or a table."""
        names = ("weights", "master", "gradients", "optimizer", "activations")
        return [(name, getattr(self, name)) for name in names]

    def __str__(self) -> str:
        lines = [f"{name:<12} {size / MB:12,.1f} MB" for name, size in self.rows() if size]
        return "\n".join([*lines, f"{'total':<12} {self.total / MB:12,.1f} MB  ({self.total / GiB:,.2f} GiB)"])

    def _repr_html_(self) -> str:
        cells = [*((n, s) for n, s in self.rows() if s), ("total", self.total)]
        body = "".join(f"<tr><td>{n}</td><td style='text-align:right'>{s / MB:,.1f} MB</td></tr>" for n, s in cells)
        return f"<table>{body}</table>"


def summed(terms: Iterable[Term]) -> int:
    r"""Bytes of all `terms` together."""
    return sum(t.bytes for t in terms)
