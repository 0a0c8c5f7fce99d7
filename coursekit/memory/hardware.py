r"""GPUs: the table `data/hardware.csv`, each row with its citation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from coursekit.errors import unknown
from coursekit.memory.breakdown import GiB
from coursekit.paths import table

#: Short names for what people say.
ALIASES = {
    "a100": "A100 80GB",
    "h100": "H100 80GB",
    "v100": "Tesla V100 32GB",
    "p100": "Tesla P100",
    "4090": "RTX 4090",
}


@dataclass(frozen=True)
class Card:
    r"""A GPU. `memory_gb` is the vendor's figure, which counts GiB: a "24 GB" card has 24 x 2^30 = 25.8e9 bytes.

    usable_gib: what a program sees of it, where the table has it: error correction and the driver keep the rest. It
    differs by some hundredths with the driver.
    """

    name: str
    memory_gb: int
    usable_gib: float | None
    year: int
    kind: str  # "consumer", "workstation" or "data center"
    compute_capability: float
    bf16: bool
    citation: str

    def capacity(self) -> int:
        r"""Bytes that a program sees, or where the table does not say, that the card has.

        The driver's context takes some hundred MB more. Slides and papers count `memory_gb` times 10^9.
        """
        return int((self.memory_gb if self.usable_gib is None else self.usable_gib) * GiB)


@cache
def cards() -> tuple[Card, ...]:
    r"""All GPUs of `data/hardware.csv`, oldest first."""
    rows = [
        Card(
            r["name"], int(r["memory_gb"]), float(r["usable_gib"]) if r["usable_gib"] else None, int(r["year"]),
            r["kind"], float(r["compute_capability"]), r["bf16"] == "yes", r["citation"],
        ) for r in table("hardware.csv")
    ]  # fmt: skip
    return tuple(sorted(rows, key=lambda c: (c.year, c.memory_gb)))


def card(name: str | Card) -> Card:
    r"""The GPU called `name`, in any case: "RTX 4090", "T4", "A100", "H100". CourseError for one not in the table."""
    if isinstance(name, Card):
        return name
    key = str(name).lower()
    key = ALIASES.get(key, key).lower()
    for found in cards():
        if found.name.lower() == key:
            return found
    raise unknown("GPU", name, [c.name for c in cards()])
