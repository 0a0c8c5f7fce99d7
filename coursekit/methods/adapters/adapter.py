r"""Base class of all methods that insert bottlenecks: hyperparameters, insertion, counting, saving."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coursekit import counts
from coursekit.architecture import describe
from coursekit.errors import CourseError, flag, keep, one_of, whole
from coursekit.methods.adapters.bottleneck import ACTIVATIONS, INITS, Bottleneck
from coursekit.methods.adapters.passes import pass_start
from coursekit.methods.adapters.placement import AdapterSite, sites
from coursekit.methods.adapters.places import blocks, places
from coursekit.methods.adapters.trained_norms import add_norms, norm_paths, norm_tensors
from coursekit.methods.mechanism.attachment import Attachment, add_module
from coursekit.methods.mechanism.branch import like
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import at, unwrap


@dataclass(frozen=True)
class Adapter(Method):
    r"""Base class of the bottleneck adapters. A subclass says where they are (`sites`) and makes one (`bottleneck`).

    r: width of the bottleneck. activation: one of `ACTIVATIONS`. init: one of `INITS`. train_norms: each adapter also
    trains its own copy of the model's norms, as in Houlsby et al. (section 2.1); the base's own stay untouched.

    Raises CourseError for an r that is no positive integer and for names that do not exist.
    """

    r: int = 64
    activation: str = "relu"
    init: str = "bert"
    train_norms: bool = False
    #: Names of the places in a block that get a bottleneck -> how the output of A is used there.
    sites: ClassVar[dict[str, type[AdapterSite]]]
    #: Names that `init` may have.
    inits: ClassVar[Iterable[str]] = INITS
    #: How it started does not matter any more once it is trained.
    entries: ClassVar[Sequence[Setting]] = (
        Setting("r"), Setting("activation"), Setting("init", binding=False), Setting("train_norms")
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._check_width()
        one_of("activation", self.activation, ACTIVATIONS)
        one_of("init", self.init, self.inits)
        flag("train_norms", self.train_norms)

    @abstractmethod
    def count_bottlenecks(self, config: Any) -> int:
        r"""Closed form: parameters of the bottlenecks of all blocks."""

    def bottleneck(self, d: int, device: torch.device, dtype: torch.dtype) -> Bottleneck:
        r"""One new bottleneck for a model of width `d`."""
        return Bottleneck(d, self.r, self.activation, self.init, device, dtype)

    def count(self, config: Any) -> int:
        r"""All bottlenecks, and with `train_norms` a copy of every norm."""
        return self.count_bottlenecks(config) + (counts.norms(describe(config)) if self.train_norms else 0)

    def insert(self, model: nn.Module, state: Attachment, name: str, first: int = 0) -> list[nn.Parameter]:
        r"""Put bottlenecks named `name` into the blocks from number `first` on; gives the trainable parameters."""
        arch, now = describe(model.config), pass_start(model, state).now
        trained: list[nn.Parameter] = []
        if self.train_norms:
            trained += add_norms(model, state, name, first, now)
        for number, (path, block) in enumerate(blocks(model).items()):
            if number < first:
                continue
            precision = like(next(block.parameters()))
            for key, kind in self.sites.items():
                here = f"{path}.{key}"
                if here not in state.added:
                    site = add_module(model, state, here, kind(block, number, places(arch, number), now, state.switch))
                    state.hooks += site.hooks()
                site = model.get_submodule(here)
                site.adapters[name] = self.bottleneck(arch.d_model, **precision)
                trained += site.adapters[name].parameters()
        return trained

    def _check_width(self) -> None:
        keep(self, r=whole("r", self.r, least=1, such_as=16))

    def _check(self, model: nn.Module) -> None:
        norms = [unwrap(at(model, path)) for path, _ in norm_paths(model, 0)]  # an unknown family is an error here
        if self.train_norms and any(norm.weight is None for norm in norms):
            raise CourseError("the norms of this model have no weights that could train: take train_norms=False")

    def touched(self, model: nn.Module) -> set[str]:
        norms = norm_paths(model, 0) if self.train_norms else []
        keys = {f"{path}.{key}" for path, _ in norms for key, _ in unwrap(at(model, path)).named_parameters()}
        return {"what the bottlenecks of the blocks add"} | keys

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        return self.insert(model, state, name)

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        inside = {
            f"{path}.{key}": value
            for path, bottleneck in bottlenecks(model, name).items()
            for key, value in bottleneck.named_parameters()
        }
        return inside | norm_tensors(model, name)


def bottlenecks(model: nn.Module, name: str) -> dict[str, Bottleneck]:
    r"""The bottlenecks of adapter `name`, by the path of the place where they sit, in the order of the blocks."""
    return {path: site.adapters[name] for path, site in sites(model).items() if name in site.adapters}
