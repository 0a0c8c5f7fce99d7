r"""Which tensors are alive, seen from inside PyTorch: every operation's results are noted, and their end as well."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Event(NamedTuple):
    r"""A storage that comes (`change` > 0) or goes, or a mark (`storage` None)."""

    change: int  # bytes
    storage: int | None
    label: str  # operation that ran last, or the mark's name


class Live(TorchDispatchMode):
    r"""Records every storage that comes into being inside the `with`, and when it dies.

    Storages are counted, not tensors: views share one. Like `torch.distributed._tools.mem_tracker.MemTracker` (a
    test holds the two against each other), but it keeps the whole history, so that a storage can be classed
    afterwards by what became of it. Memory that a kernel uses inside one operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.now = "start"
        self._known: dict[int, tuple[weakref.ref, int]] = {}
        self._next = 0

    def mark(self, label: str) -> None:
        r"""Note a moment, such as the end of the forward pass."""
        self.events.append(Event(0, None, label))

    def add(self, tensors: Iterable[Tensor]) -> set[int]:
        r"""Numbers of the storages under `tensors`; those not seen before count from now on."""
        return {self._number(t.untyped_storage()) for t in tensors}

    def _number(self, storage: torch.UntypedStorage) -> int:
        key = storage._cdata  # the address of the storage itself: its data pointer may be shared or null
        if key in self._known:
            return self._known[key][1]
        number, size = self._next, storage.nbytes()
        self._next += 1

        def gone(_: weakref.ref) -> None:
            # After the `with` the process goes on; only what happens inside belongs to the step.
            self._known.pop(key, None)
            self.events.append(Event(-size, number, self.now))

        self._known[key] = (weakref.ref(storage, gone), number)
        self.events.append(Event(size, number, self.now))
        return number

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.now = func.__name__
        if isinstance(result, Tensor):  # of nearly every operation
            self._number(result.untyped_storage())
        else:
            self.add(t for t in tree_leaves(result) if isinstance(t, Tensor))
        return result
