r"""Variants of an adapter: `AdapterDrop` leaves it out of some blocks, `SparseAdapter` prunes its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from coursekit import interop
from coursekit.errors import CourseError
from coursekit.methods.adapters.adapter import Adapter
from coursekit.methods.adapters.houlsby import HoulsbyAdapter
from coursekit.methods.adapters.lin import LinAdapter
from coursekit.methods.adapters.parallel import ParallelAdapter
from coursekit.methods.adapters.pfeiffer import PfeifferAdapter
from coursekit.methods.mechanism.checkpoint import Setting, written
from coursekit.methods.mechanism.method import Method

#: Adapters that have variants, by their name in a checkpoint.
ADAPTERS: dict[str, type[Adapter]] = {
    kind.kind: kind for kind in (HoulsbyAdapter, PfeifferAdapter, ParallelAdapter, LinAdapter)
}


def _written(adapter: Adapter) -> dict[str, Any]:
    return {"peft_type": adapter.kind} | written(adapter, adapter.entries)


def _read(config: dict[str, Any]) -> Adapter:
    return ADAPTERS[config["peft_type"]].restored(config, {})


#: The adapter inside, in the config of a checkpoint; what binds is what binds there, see `_check_config`.
ADAPTER = Setting("adapter", binding=False, read=_read, write=_written)


@dataclass(frozen=True)
class AroundAdapter(Method):
    r"""Base class of variants of an `adapter`."""

    adapter: Adapter

    def __post_init__(self) -> None:
        if not isinstance(self.adapter, tuple(ADAPTERS.values())):
            names = ", ".join(kind.__name__ for kind in ADAPTERS.values())
            raise CourseError(f"adapter must be one of {names}; got {self.adapter!r}.")

    def _check(self, model: nn.Module) -> None:
        self.adapter._check(model)

    def _check_config(self, config: dict[str, Any]) -> None:
        interop.same_method(self.adapter.kind, config["adapter"])
        self.adapter._check_config(config["adapter"])
        super()._check_config(config)
