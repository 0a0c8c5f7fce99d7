r"""How the memory model describes a method: the tensors it adds, and what it does to the forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from coursekit import counts
from coursekit.architecture import Architecture
from coursekit.memory.activations.training import Training
from coursekit.memory.breakdown import Term

#: Places of added tensors outside the blocks.
BEFORE, AFTER = "before the blocks", "after the blocks"


@dataclass(frozen=True)
class Added:
    r"""One trained tensor that the base does not have: fp32, on a 16-bit base as well."""

    size: int  # elements
    place: int | str  # number of its block, BEFORE or AFTER: when its gradient comes


@dataclass(frozen=True)
class Inserted:
    r"""Trainable parameters and added tensors of a method, task head aside."""

    training: Training
    added: tuple[Added, ...] = ()
    prompt: int = 0  # virtual tokens before the text
    prefix: int = 0  # keys and values of virtual tokens before those of every attention
    vectors: int = 0  # virtual tokens that take the place of tokens of the text
    before: tuple[Term, ...] = ()  # kept by what makes them
    drawn: tuple[Term, ...] = ()  # made in the first step, and there ever after
    fixed: int = 0  # elements that are added and do not train


def frozen(path: str) -> bool:
    r"""Nothing of the base trains."""
    return False


def each_block(sizes: Iterable[int], blocks: Iterable[int]) -> list[Added]:
    r"""Tensors of `sizes` in each of `blocks`."""
    sizes = list(sizes)
    return [Added(size, block) for block in blocks for size in sizes]


def place(path: str, arch: Architecture) -> int | str:
    r"""The number of the block that holds `path`, or which end of the body it is at."""
    layer = arch.block_of(path)
    if layer is not None:
        return layer
    before = [*arch.tables, *arch.before]
    return BEFORE if path.startswith(tuple(f"{name}." for name in before)) else AFTER


def norm_copies(arch: Architecture, first: int = 0) -> tuple[frozenset[str], list[Added]]:
    r"""Paths in the body of the norms that train with the blocks from `first` on, and the tensors of their copies.

    As in `counts.norms`: a norm before the blocks only with the first of them, one behind them with any.
    """
    paths, added = set(), []
    for norm, layer in counts.norms_from(arch, first):
        if not norm.of_tokens:
            continue
        paths.add(norm.name if layer is None else f"{arch.block_path(layer)}.{norm.name}")
        there = layer if layer is not None else BEFORE if norm.name in arch.before else AFTER
        added += [Added(size, there) for size in norm.sizes]
    return frozenset(paths), added


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
        fixed=sum(part.fixed for part in parts),
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
