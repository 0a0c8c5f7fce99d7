r"""The task head: freshly initialised for a task, so every adapter trains a copy of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from coursekit.methods.mechanism.mixed_batch import by_rows
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
        return by_rows(self.switch, lambda name, rows: self.chosen(name)(rows, *args, **kwargs), x)
