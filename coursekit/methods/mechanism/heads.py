r"""The task head: freshly initialised for a task, so every adapter trains a copy of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.methods.mechanism.switch import Switch, Switched


class SwitchedHead(Switched):
    r"""A task head, which trains whole: the original, and one copy for each adapter."""

    def __init__(self, base: nn.Module, switch: Switch):
        super().__init__(base, switch)
        self.copies = nn.ModuleDict()

    def chosen(self, name: str | None) -> nn.Module:
        r"""The copy of adapter `name`, or the original."""
        return self.copies[name] if name in self.copies else self.base_layer  # noqa: SIM401 - ModuleDict has no get

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.switch.rows is None:
            return self.chosen(self.switch.active)(x, *args, **kwargs)
        parts = {name: self.chosen(name)(x[index], *args, **kwargs) for name, index in self.switch.parts(x)}
        if len({part.shape[1:] for part in parts.values()}) > 1:
            sizes = ", ".join(f"{name}: {tuple(part.shape[1:])}" for name, part in parts.items())
            raise CourseError(f"rows of one batch need task heads of one size, these differ: {sizes}")
        first = next(iter(parts.values()))
        y = first.new_empty(len(x), *first.shape[1:])
        for name, index in self.switch.parts(x):
            y = y.index_copy(0, index, parts[name])
        return y
