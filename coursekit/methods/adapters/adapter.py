r"""Base class of all methods that insert bottlenecks: hyperparameters, insertion, counting, saving.

Norms may train beside the bottlenecks, as in Houlsby et al. (section 2.1): each adapter has its own copies.

$$\mathrm{LN}(x) = \gamma \odot \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta,
\quad \gamma, \beta \in \mathbb{R}^d \text{ of the active adapter}$$
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit import counts
from coursekit.architecture import describe
from coursekit.errors import CourseError, flag, keep, one_of, whole
from coursekit.methods.adapters.bottleneck import ACTIVATIONS, INITS, Bottleneck
from coursekit.methods.adapters.passes import Pass, pass_start
from coursekit.methods.adapters.placement import AdapterSite, sites
from coursekit.methods.adapters.places import blocks, places
from coursekit.methods.mechanism.attachment import Attachment, add_module, by_rows, wrap
from coursekit.methods.mechanism.branch import adapter_dtype, like
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import (
    AdapterState,
    AdapterWrapper,
    at,
    body_prefix,
    find_wrapper,
    named_base_modules,
    unwrap,
)


class AdapterNorm(AdapterWrapper):
    r"""A norm that trains: the original, and a copy for each adapter that asked for one."""

    def __init__(self, norm: nn.Module, switch: AdapterState, number: int, now: Pass):
        super().__init__(norm, switch)
        self.norms = nn.ModuleDict()
        self.number, self.now = number, now

    def add(self, name: str) -> list[nn.Parameter]:
        r"""A copy for adapter `name`, in fp32 on a 16-bit base: near 1, bf16 moves in steps of 1/128."""
        norm = copy.deepcopy(self.unwrapped)
        self.norms[name] = norm.to(adapter_dtype(norm.weight.dtype))
        return list(self.norms[name].parameters())

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return self.base_layer(x) if self.number < self.now.skipped else by_rows(self.switch, self.normalised, x)

    def normalised(self, name: str | None, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        r"""The output of adapter `name`'s copy, or of the original where it has none, in x's precision."""
        if name not in self.norms:
            return self.base_layer(x)
        norm = self.norms[name]
        # LayerNorm wants all of its inputs in one precision. An RMSNorm of transformers rounds to x's before it
        # multiplies by the weight, so it gets x as it is.
        return norm(x.to(norm.weight.dtype) if isinstance(norm, nn.LayerNorm) else x).to(x.dtype)


def norm_paths(model: nn.Module, first: int) -> list[tuple[str, int]]:
    r"""Path of each norm that trains with the blocks from `first` on, and the number of its block.

    A norm outside the blocks counts as the last of all, which is never skipped. The embeddings' (BERT) is left out
    where the first block is, so that the backward pass need not go down there.
    """
    arch, prefix = describe(model.config), body_prefix(model)
    return [
        (prefix + norm.name, arch.n_layers)
        if layer is None
        else (f"{prefix}{arch.block_path(layer)}.{norm.name}", layer)
        for norm, layer in counts.norms_from(arch, first)
        if norm.of_tokens
    ]


def add_norms(model: nn.Module, state: Attachment, name: str, first: int, now: Pass) -> list[nn.Parameter]:
    r"""A copy of each norm for adapter `name`, with the blocks from `first` on; gives the trainable parameters."""
    trained = []
    for path, number in norm_paths(model, first):
        norm = find_wrapper(model, path, AdapterNorm) or wrap(model, state, path, AdapterNorm, number, now)
        trained += norm.add(name)
    return trained


def norm_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    r"""The norms that adapter `name` has trained, by the paths that the model's own have."""
    return {
        f"{path}.{key}": value
        for path, module in named_base_modules(model)
        if isinstance(module, AdapterNorm) and name in module.norms
        for key, value in module.norms[name].named_parameters()
    }


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
