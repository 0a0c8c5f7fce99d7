r"""Combinations: what each part puts into the model, all at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from coursekit.memory.activations.training import Training
from coursekit.memory.inserted.parts import Inserted


def together(parts: Iterable[Inserted]) -> Inserted:
    r"""What several methods do to one model. No two of them have low-rank branches."""
    parts = list(parts)
    return Inserted(
        _training([part.training for part in parts]),
        tuple(t for part in parts for t in part.added),
        prompt=sum(part.prompt for part in parts),
        prefix=sum(part.prefix for part in parts),
        vectors=sum(part.vectors for part in parts),
        before=tuple(t for part in parts for t in part.before),
        drawn=tuple(t for part in parts for t in part.drawn),
    )


def _training(parts: list[Training]) -> Training:
    r"""All of it; the branches are those of the one part that has some."""
    branches = next((part for part in parts if part.low_rank), parts[0])
    return replace(
        branches,
        trains=lambda path: any(part.trains(path) for part in parts),
        parts=tuple(p for part in parts for p in part.parts),
        norm_copies=any(part.norm_copies for part in parts),
        moved=next((part.moved for part in parts if part.moved), None),
        written={name: own for part in parts for name, own in part.written.items()},
    )
