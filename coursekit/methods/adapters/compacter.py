r"""Compacter and Compacter++ (Karimi Mahabadi et al. 2021, arXiv:2106.04647): bottlenecks of Kronecker products.

$$A(x) = W_{up}\,\sigma(W_{down}x + b_{down}) + b_{up}, \quad W = \sum_{i=1}^{n} A_i \otimes s_i t_i^\top$$

The $A_i$, $n^3$ parameters, are shared by all projections of all blocks; each projection has its own s and t, d + r
parameters instead of dr. One such projection is `kronecker.KroneckerLinear`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coursekit import counts
from coursekit.architecture import describe
from coursekit.errors import CourseError, keep, whole
from coursekit.methods.adapters import kronecker
from coursekit.methods.adapters.adapter import Adapter, bottlenecks
from coursekit.methods.adapters.houlsby import AfterAttention, AfterFeedForward
from coursekit.methods.adapters.kronecker import KroneckerBottleneck, Rule, SharedRules
from coursekit.methods.adapters.pfeiffer import AfterAddition
from coursekit.methods.adapters.placement import AdapterSite
from coursekit.methods.mechanism.attachment import Attachment, add_module
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.modules import body_prefix


@dataclass(frozen=True)
class Compacter(Adapter):
    r"""Two bottlenecks in each block, placed as Houlsby's.

    n: how many Kronecker products each matrix is a sum of; it divides d and r. reduction: the bottleneck is d /
    `reduction` wide, rounded down. r: its width itself, where d / `reduction` does not fit. The values are the
    paper's. init: "glorot" or "zero". activation, train_norms: see `Adapter`; the paper's recipe trains the norms,
    with a learning rate of 3e-3.
    """

    r: int | None = None
    activation: str = "gelu"
    init: str = "glorot"
    n: int = 4
    reduction: int = 32
    kind: ClassVar[str] = "COMPACTER"
    sites: ClassVar[dict[str, type[AdapterSite]]] = {
        "compacter_attention": AfterAttention,
        "compacter_ffn": AfterFeedForward,
    }
    inits: ClassVar[Iterable[str]] = kronecker.INITS
    entries = (*Adapter.entries, Setting("n"), Setting("reduction"))

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, n=whole("n", self.n, least=1, such_as=4))
        keep(self, reduction=whole("reduction", self.reduction, least=1, such_as=32))

    def width(self, d: int) -> int:
        r"""r in a model of width `d`. Raises CourseError where n does not divide both."""
        r = d // self.reduction if self.r is None else self.r
        if d % self.n:
            raise CourseError(f"n={self.n} does not divide the width of this model, d={d}: take another n")
        if r % self.n or r < 1:
            raise CourseError(
                f"n={self.n} does not divide the width of the bottleneck, r={r} of d={d}: take another n, or say the "
                f"width, such as r={max(r // self.n, 1) * self.n}"
            )
        return r

    def bottleneck(self, d: int, device: torch.device, dtype: torch.dtype) -> KroneckerBottleneck:
        return KroneckerBottleneck(d, self.width(d), self.n, self.activation, device, dtype)

    def insert(self, model: nn.Module, state: Attachment, name: str, first: int = 0) -> list[nn.Parameter]:
        trained = super().insert(model, state, name, first)
        path = _path(model)
        shared = add_module(model, state, path, SharedRules(state.switch))
        layers = list(bottlenecks(model, name).values())
        bias = layers[0].up.bias
        shared.rules[name] = rule = Rule(self.n, bias.device, bias.dtype)
        for layer in layers:
            layer.share(rule)
        kronecker.INITS[self.init](rule, layers)
        return [rule.A, *trained]

    def count_bottlenecks(self, config: Any) -> int:
        r"""$n^3 + 2L(3d + 3r)$, with one bottleneck in each block $n^3 + L(3d + 3r)$."""
        r = self.width(describe(config).d_model)
        return counts.compacter(config, r, self.n, len(self.sites))

    def _check_width(self) -> None:
        if self.r is not None:
            super()._check_width()

    def _check(self, model: nn.Module) -> None:
        super()._check(model)
        self.width(describe(model.config).d_model)

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        path = _path(model)
        return {f"{path}.A": model.get_submodule(path).rules[name].A} | super()._tensors(model, name)


@dataclass(frozen=True)
class CompacterPlus(Compacter):
    r"""Compacter++: one bottleneck in each block, after the feed-forward.

    It reads the normalised sum, like `PfeifferAdapter`, as in the `adapters` library. In the paper, whose models
    have norms first, it reads the feed-forward's output.
    """

    kind: ClassVar[str] = "COMPACTER_PLUS"
    sites: ClassVar[dict[str, type[AdapterSite]]] = {"compacter_plus": AfterAddition}


def _path(model: nn.Module) -> str:
    r"""Where in `model` the shared factors are."""
    return f"{body_prefix(model)}compacter"
