r"""What stands in a model for the adapters: modules that answer differently for each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from coursekit.errors import CourseError


@dataclass
class Switch:
    r"""Which adapter speaks. Shared by all modules of one model, so that switching is one assignment."""

    active: str | None = None
    #: In a mixed batch: adapter name (None: the bare base) -> the rows it answers.
    rows: dict[str | None, Tensor] | None = None
    #: In a mixed batch: the rows that are being answered just now, for what must know which they are (a gate's mask).
    part: Tensor | None = None

    @property
    def size(self) -> int:
        r"""How many rows a mixed batch has."""
        return sum(map(len, self.rows.values()))

    def parts(self, x: Tensor) -> Iterator[tuple[str | None, Tensor]]:
        r"""(adapter, its rows) for a mixed batch `x`. Raises CourseError if the batch has another number of rows."""
        self.fits(x)
        yield from self.rows.items()

    def fits(self, x: Tensor) -> None:
        r"""Raise CourseError where a mixed batch `x` has another number of rows than there are adapter names."""
        if len(x) != self.size:
            raise CourseError(
                f"mixed_batch() was given {self.size} adapter names, but the batch has {len(x)} rows"
            )

    @contextlib.contextmanager
    def only(self, name: str | None) -> Iterator[None]:
        r"""Adapter `name` alone speaks, for the length of a `with`: None is the bare base."""
        before, (self.active, self.rows) = (self.active, self.rows), (name, None)
        try:
            yield
        finally:
            self.active, self.rows = before


class Switched(nn.Module):
    r"""A module around `base_layer`, or beside everything, with an answer of its own for each named adapter.

    Hooks that it needs are its own bound methods: a copy of the model then has hooks that look at the copy.
    """

    #: Where several stand around one module, the order from the inside out, whichever came first: 0 what takes the
    #: place of the module's tensors, 1 what changes its answer, 2 what changes the question.
    order: ClassVar[int] = 1

    def __init__(self, base_layer: nn.Module | None, switch: Switch):
        super().__init__()
        self.base_layer, self.switch = base_layer, switch

    @property
    def bare(self) -> nn.Module:
        r"""The module of the bare model that this one stands around, itself or with other wrappers in between."""
        return bare(self.base_layer)

    def follow(self, training: bool) -> None:
        r"""Put what was added in the model's mode: a new module is in train mode, and its dropout would drop."""
        self.training = training
        for child, module in self.named_children():
            if child != "base_layer":
                module.train(training)

    def forget(self, name: str) -> None:
        r"""Drop what belongs to adapter `name`."""
        for store in self.children():
            if isinstance(store, (nn.ModuleDict, nn.ParameterDict)) and name in store:
                del store[name]


def bare(module: nn.Module) -> nn.Module:
    r"""`module` itself, or what it and the wrappers in it stand around."""
    while isinstance(module, Switched) and module.base_layer is not None:
        module = module.base_layer
    return module
