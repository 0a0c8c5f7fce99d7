r"""What trains whole, such as a task head freshly initialised: every adapter has a copy of its own."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from coursekit.methods.mechanism.mixed_batch import by_rows
from coursekit.methods.mechanism.switch import Switch, Switched


class SwitchedHead(Switched):
    r"""A module that trains whole: the original, and one copy for each adapter."""

    order: ClassVar[int] = 0

    def __init__(self, base: nn.Module, switch: Switch):
        super().__init__(base, switch)
        self.copies = nn.ModuleDict()

    def chosen(self, name: str | None) -> nn.Module:
        r"""The copy of adapter `name`, or the original."""
        return self.copies[name] if name in self.copies else self.base_layer  # noqa: SIM401 - ModuleDict has no get

    @property
    def weight(self) -> nn.Parameter:
        r"""The weight of the adapter that is active, for code that looks at `layer.weight`."""
        return self.chosen(self.switch.active).weight

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return by_rows(self.switch, lambda name, rows: self.chosen(name)(rows, *args, **kwargs), x)
