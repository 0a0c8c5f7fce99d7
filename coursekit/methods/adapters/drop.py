r"""AdapterDrop (Rücklé et al. 2021, arXiv:2010.11918): the first n blocks go without adapters.

They then answer as in the base: no adapter to run there, one result for many tasks, and a backward pass that stops
above them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.architecture import describe
from coursekit.errors import CourseError
from coursekit.methods.adapters import placement
from coursekit.methods.adapters.bottleneck import Adapter
from coursekit.methods.adapters.houlsby import HoulsbyAdapter
from coursekit.methods.adapters.lin import LinAdapter
from coursekit.methods.adapters.parallel import ParallelAdapter
from coursekit.methods.adapters.pfeiffer import PfeifferAdapter
from coursekit.methods.mechanism.attachment import Attachment, attached
from coursekit.methods.mechanism.method import Method

#: What can be dropped, by the name in a checkpoint.
ADAPTERS = {kind.kind: kind for kind in (HoulsbyAdapter, PfeifferAdapter, ParallelAdapter, LinAdapter)}


@dataclass(frozen=True)
class AdapterDrop(Method):
    r"""`adapter`, left out of the first `n` blocks.

    Specialised (robust=False): the first n blocks have no adapters, in training or later; 0 <= n <= L.
    Robust: all blocks have one, and each step of training skips the first k, with k drawn evenly from 0..n, so that
    `skipping` can leave out any number of them later; n=None draws from 0..L-1, as in the paper.
    """

    adapter: Adapter = PfeifferAdapter()
    n: int | None = None
    robust: bool = False
    kind: ClassVar[str] = "ADAPTER_DROP"

    def __post_init__(self) -> None:
        if not isinstance(self.adapter, tuple(ADAPTERS.values())):
            names = ", ".join(kind.__name__ for kind in ADAPTERS.values())
            raise CourseError(f"adapter={self.adapter!r} cannot be dropped: take one of {names}")
        if self.n is None and not self.robust:
            raise CourseError(
                "AdapterDrop needs to know how many first blocks go without an adapter: say n=3, or robust=True"
            )
        if self.n is not None and (isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 0):
            raise CourseError(f"n={self.n!r} is no number of blocks: take a whole number from 0 up")

    def first(self, config: Any) -> int:
        r"""Number of the first block that has an adapter. Raises CourseError for an n above the model's blocks."""
        layers = describe(config).n_layers
        if self.n is not None and self.n > layers:
            raise CourseError(
                f"n={self.n} is above the number of blocks of this model: take n up to {layers}"
            )
        return 0 if self.robust else self.n

    def count(self, config: Any) -> int:
        r"""The adapter's count without the first n of L blocks; all of it if robust."""
        arch, first = describe(config), self.first(config)
        norms = counts.norms(arch, first) if self.adapter.train_norms else 0
        return self.adapter.count_bottlenecks(config) // arch.n_layers * (arch.n_layers - first) + norms

    def _check(self, model: nn.Module) -> None:
        self.first(model.config)
        self.adapter._check(model)

    def touched(self, model: nn.Module) -> set[str]:
        return self.adapter.touched(model)

    def _insert(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        trained = self.adapter.insert(model, state, name, self.first(model.config))
        if self.robust:
            most = describe(model.config).n_layers - 1 if self.n is None else self.n
            placement.start(model, state).now.sampled[name] = most
        return trained

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return self.adapter._tensors(model, name)

    def settings(self) -> dict[str, Any]:
        r"""Hyperparameters as they stand in a checkpoint."""
        inner = {"peft_type": self.adapter.kind} | self.adapter.settings()
        return {"n": self.n, "robust": self.robust, "adapter": inner}

    def _config(self, model: nn.Module) -> dict[str, Any]:
        return interop.common_config(model, self.kind) | self.settings()

    def _check_config(self, config: dict[str, Any]) -> None:
        interop.same_method(self.adapter.kind, config["adapter"])
        self.adapter._check_config(config["adapter"])
        if not self.robust and (config["n"], config["robust"]) != (self.n, self.robust):
            raise CourseError(
                f"this checkpoint was trained with n={config['n']}, robust={config['robust']}, the method here has "
                f"n={self.n}, robust={self.robust}; AdapterDrop.from_checkpoint(folder) makes the method that fits"
            )

    @classmethod
    def from_checkpoint(cls, folder: Any) -> AdapterDrop:
        r"""The method with the hyperparameters of the checkpoint in `folder`."""
        config, _ = interop.read(folder)
        interop.same_method(cls.kind, config)
        inner = config["adapter"]
        adapter = ADAPTERS[inner["peft_type"]].from_settings(inner)
        return cls(adapter=adapter, n=config["n"], robust=config["robust"])


@contextlib.contextmanager
def skipping(model: nn.Module, n: int) -> Iterator[nn.Module]:
    r"""The first `n` blocks answer as in the base, for the length of a `with`: their adapters are passed over.

    For inference with any adapters, whatever they were trained for; a norm outside the blocks that trained with them
    (`train_norms`) stays. Raises CourseError for an n above the number of blocks, where there are no adapters, and
    where they are parts of a combination.
    """
    found = [module for module in model.modules() if isinstance(module, placement.PassStart)]
    if not found:
        raise CourseError(
            "this model carries no bottleneck adapters that could be skipped; attach some first"
        )
    for method in attached(model).values():
        if hasattr(method, "parts_for"):
            raise CourseError(
                f"a {method._title} has more in a block than a bottleneck: with that skipped, the rest would still "
                "answer; only bottleneck adapters by themselves can be skipped"
            )
    layers = describe(model.config).n_layers
    if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= layers:
        raise CourseError(f"n={n!r}: this model has {layers} blocks, take a whole number from 0 to {layers}")
    now = found[0].now
    before, now.held = now.held, n
    try:
        yield model
    finally:
        now.held = before
