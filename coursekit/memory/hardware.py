r"""GPUs: the table `data/hardware.csv`, each row with its citation."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from coursekit.errors import one_of, unknown
from coursekit.memory.breakdown import GB, GiB
from coursekit.paths import DATA

#: Short names for what people say.
ALIASES = {
    "a100": "A100 80GB",
    "h100": "H100 80GB",
    "v100": "Tesla V100 32GB",
    "p100": "Tesla P100",
    "4090": "RTX 4090",
}

UNITS = {"GB": GB, "GiB": GiB}


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
    kind: str  # "consumer" or "data center"
    compute_capability: float
    bf16: bool
    citation: str

    def capacity(self, unit: str = "GiB") -> int:
        r"""Bytes. "GiB": what a program sees, or where the table does not say, what the card has; "GB": the vendor's
        figure times 10^9, as slides and papers count.

        The driver's context takes some hundred MB more.
        """
        one_of("unit", unit, UNITS)
        if unit == "GiB" and self.usable_gib is not None:
            return int(self.usable_gib * GiB)
        return self.memory_gb * UNITS[unit]


@cache
def cards() -> tuple[Card, ...]:
    r"""All GPUs of `data/hardware.csv`, oldest first."""
    rows = [
        Card(
            r["name"], int(r["memory_gb"]), float(r["usable_gib"]) if r["usable_gib"] else None, int(r["year"]),
            r["kind"], float(r["compute_capability"]), r["bf16"] == "yes", r["citation"],
        ) for r in _table("hardware.csv")
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


def _table(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
