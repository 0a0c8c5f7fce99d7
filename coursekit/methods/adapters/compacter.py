r"""Compacter and Compacter++ (Karimi Mahabadi et al. 2021, arXiv:2106.04647): bottlenecks of Kronecker products.

$$A(x) = W_{up}\,\sigma(W_{down}x + b_{down}) + b_{up}, \quad W = \sum_{i=1}^{n} A_i \otimes s_i t_i^\top,
\quad A_i \in \mathbb{R}^{n \times n}, s_i \in \mathbb{R}^{d_{out}/n}, t_i \in \mathbb{R}^{d_{in}/n}$$

Equations 4 and 5, with rank 1 as there. The $A_i$, $n^3$ parameters, are shared by all projections of all blocks; each
projection (`KroneckerLinear`) has its own s and t, d + r parameters instead of dr. The paper calls this a low-rank
parameterised hypercomplex multiplication (LPHM).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coursekit import counts
from coursekit.architecture import describe
from coursekit.errors import CourseError, keep, whole
from coursekit.methods.adapters.adapter import Adapter, bottlenecks
from coursekit.methods.adapters.bottleneck import ACTIVATIONS, Bottleneck
from coursekit.methods.adapters.houlsby import AfterAttention, AfterFeedForward
from coursekit.methods.adapters.pfeiffer import AfterAddition
from coursekit.methods.adapters.placement import AdapterSite
from coursekit.methods.mechanism.attachment import Attachment, add_module
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper, body_prefix


class KroneckerLinear(nn.Module):
    r"""$y = Wx + b$ with $d_{in} + 2 d_{out}$ parameters of its own, whatever n is: s, t and b."""

    def __init__(self, d_in: int, d_out: int, n: int, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.s = nn.Parameter(torch.empty(n, d_out // n, device=device, dtype=dtype))
        self.t = nn.Parameter(torch.empty(n, d_in // n, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(d_out, device=device, dtype=dtype))
        self.rule: tuple[Rule, ...] = ()  # in a tuple: as an attribute it would be a parameter of every layer

    @property
    def A(self) -> Float[Tensor, "n n n"]:
        r"""The shared factors."""
        return self.rule[0].A

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        r"""W, written out; `forward` does without it."""
        W = torch.einsum("ipq,ia,ib->paqb", self.A, self.s, self.t)  # (n, out / n, n, in / n)
        return W.reshape(self.bias.numel(), -1)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        # One factor after the other: n (d_in + n^2 + d_out) multiplications for each token instead of d_in * d_out,
        # and no W to build, to keep and to differentiate. On a CPU a step of one bottleneck of BERT base, 2,048
        # tokens, took 4.4 ms this way, 7.8 ms with W built first and 11 ms with two dense matrices.
        n = len(self.A)
        z = F.linear(x.unflatten(-1, (n, -1)), self.t)  # (*batch, n, in / n) -> (*batch, q, i)
        z = torch.einsum("...qi,ipq->...pi", z, self.A)  # (*batch, q, i) -> (*batch, p, i)
        return (z @ self.s).flatten(-2) + self.bias  # (*batch, p, i) -> (*batch, n, out / n) -> (*batch, out)


class Rule(nn.Module):
    r"""$A_1, \dots, A_n$, (n, n, n)."""

    def __init__(self, n: int, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.A = nn.Parameter(torch.empty(n, n, n, device=device, dtype=dtype))


class SharedRules(AdapterWrapper):
    r"""The rules of all named adapters of a model, each there once."""

    def __init__(self, switch: AdapterState):
        super().__init__(None, switch)
        self.rules = nn.ModuleDict()


class KroneckerBottleneck(Bottleneck):
    r"""$A(x) = W_{up}\,\sigma(W_{down}x + b_{down}) + b_{up}$ with both matrices made of Kronecker products."""

    def __init__(self, d: int, r: int, n: int, activation: str, device: torch.device, dtype: torch.dtype):
        nn.Module.__init__(self)  # Bottleneck's own would make the dense matrices
        self.down = KroneckerLinear(d, r, n, device, dtype)
        self.up = KroneckerLinear(r, d, n, device, dtype)
        self.act = ACTIVATIONS[activation]

    def share(self, rule: Rule) -> None:
        r"""Let both projections use `rule`."""
        self.down.rule = self.up.rule = (rule,)


def _start_glorot(rule: Rule, layers: list[KroneckerBottleneck]) -> None:
    nn.init.normal_(rule.A, std=1e-4)
    for layer in layers:
        for vectors in (layer.down.s, layer.down.t, layer.up.s, layer.up.t):
            bound = math.sqrt(6 / (1 + vectors.shape[1]))  # Glorot's, of a matrix with one column
            nn.init.uniform_(vectors, -bound, bound)


def _start_zero(rule: Rule, layers: list[KroneckerBottleneck]) -> None:
    _start_glorot(rule, layers)
    for layer in layers:
        nn.init.zeros_(layer.up.s)


#: Starting values by name; the biases start at 0 in all of them. "glorot": the vectors by Glorot's rule, uniform, and
#: A ~ N(0, 1e-4), as the `adapters` library has it: close to no change. (Asked for the uniform rule, that library
#: draws the vectors by Glorot's normal one, with the same variance.) "zero": W_up = 0, exactly no change.
INITS: dict[str, Callable[[Rule, list[KroneckerBottleneck]], None]] = {"glorot": _start_glorot, "zero": _start_zero}


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
    inits: ClassVar[Iterable[str]] = INITS
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
        INITS[self.init](rule, layers)
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
