r"""LoRA: Low-Rank Adaptation (Hu et al. 2021, arXiv:2106.09685), with rsLoRA and DoRA.

$$h = W_0 x + \frac{\alpha}{r} B A x, \quad A \in \mathbb{R}^{r \times d_{in}}, B \in \mathbb{R}^{d_{out} \times r}$$
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.errors import CourseError, keep
from coursekit.methods.dora import DoRAMixin
from coursekit.methods.lora_config import ENTRIES, check_place, check_same_start, checked, refuse_others, resolved
from coursekit.methods.lora_started import Started
from coursekit.methods.lora_starts import MOVED, MovedStart
from coursekit.methods.low_rank import FastTwin
from coursekit.methods.mechanism.branch import Branch, Branched, like
from coursekit.methods.mechanism.checkpoint import Setting, shown
from coursekit.methods.mechanism.modules import EVERY
from coursekit.methods.mechanism.names import QUERY_VALUE, Names, own_setting
from coursekit.methods.mechanism.targets import Targets


class LoRABranch(Branch):
    r"""The update of one adapter beside one frozen linear layer. A starts random and B at 0, so that BA = 0."""

    keys: ClassVar[dict[str, str]] = {"A": "lora_A.weight", "B": "lora_B.weight"}

    def __init__(self, layer: LoRALayer, method: LoRA):
        super().__init__()
        W = layer.W  # once: a base in 4 bits unpacks it each time
        d_out, d_in = W.shape
        self.A = nn.Parameter(torch.empty(method.r, d_in, **like(W)))
        self.B = nn.Parameter(torch.empty(d_out, method.r, **like(W)))
        self.s = method.scaling
        self.dropout = nn.Dropout(method.dropout) if method.dropout else nn.Identity()
        self.start(W, method)

    def forward(self, y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        r"""$h = W_0 x + s\,B(Ax)$ (equation 3), where y is $W_0 x$."""
        return y + self.dropout(x) @ self.A.T @ self.B.T * self.s  # (*batch, in)(in, r)(r, out)

    def start(self, W: Float[Tensor, "out in"], method: LoRA) -> None:
        r"""The paper's start, as its code has it: it does not look at W."""
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        nn.init.zeros_(self.B)

    @property
    def delta(self) -> Float[Tensor, "out in"]:
        r"""$\Delta W = sBA$."""
        return (self.B @ self.A) * self.s

    def merged(self, W: Float[Tensor, "out in"], b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        r"""$W_0 + sBA$, rounded once: from then on no extra layer, and so no extra latency."""
        return (W + self.delta).to(W.dtype), b


class FastLoRABranch(FastTwin, LoRABranch):
    r"""`LoRABranch` as a model runs it: the same bits, with the backward pass written out (`low_rank.py`)."""


class LoRAEmbedding(LoRABranch):
    r"""LoRA on an embedding, whose table is $W^\top$: x is one-hot, and $Ax$ a column of A."""

    keys: ClassVar[dict[str, str]] = {"A": "lora_embedding_A", "B": "lora_embedding_B"}

    def __init__(self, layer: LoRALayer, method: LoRA):
        super().__init__(layer, method)
        self.padding_idx = layer.unwrapped.padding_idx

    def start(self, W: Float[Tensor, "out in"], method: LoRA) -> None:
        r"""The other way round than for a linear layer: A = 0, B random."""
        nn.init.zeros_(self.A)
        nn.init.normal_(self.B)

    def BAx(self, x: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch out"]:
        r"""$B(Ax)$, where the column of the padding token gets no gradient, as in the frozen table."""
        Ax = F.embedding(x, self.A.T, self.padding_idx)  # (*batch) -> (*batch, r)
        return Ax @ self.B.T  # (*batch, r)(r, out)

    def forward(self, y: Float[Tensor, "*batch out"], x: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch out"]:
        r"""$h = W_0 x + s\,B(Ax)$."""
        return y + self.BAx(x) * self.s


class BiasedLoRABranch(LoRABranch):
    r"""A bias beside B, $h = W_0 x + s\,(BAx + b)$: for what a LoRA is to take over from a layer that has one."""

    keys: ClassVar[dict[str, str]] = LoRABranch.keys | {"b": "lora_B.bias"}

    def __init__(self, layer: LoRALayer, method: LoRA):
        super().__init__(layer, method)
        self.b = nn.Parameter(torch.zeros_like(self.B[:, 0]))  # (out,)

    def forward(self, y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        r"""$h = W_0 x + s\,(B(Ax) + b)$, where y is $W_0 x$."""
        return y + F.linear(F.linear(self.dropout(x), self.A), self.B, self.b) * self.s

    def merged(self, W: Float[Tensor, "out in"], b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        r"""$W_0 + sBA$ and $b_0 + sb$."""
        if b is None:
            raise CourseError(
                "lora_bias=True does not merge into a layer that has no bias: keep the adapter attached, or train "
                "without lora_bias"
            )
        return super().merged(W, b)[0], (b + self.b * self.s).to(b.dtype)


class MovedLoRABranch(MovedStart, LoRABranch):
    r"""LoRA that starts at a part of W (`lora_starts.py`)."""


class DoRABranch(DoRAMixin, LoRABranch):
    r"""LoRA that learns the length of W's rows apart from their direction (`dora.py`)."""

    keys: ClassVar[dict[str, str]] = LoRABranch.keys | {"m": "lora_magnitude_vector"}


class DoRAEmbedding(DoRAMixin, LoRAEmbedding):
    r"""DoRA on an embedding: what the frozen table answers is y itself."""

    keys: ClassVar[dict[str, str]] = LoRAEmbedding.keys | {"m": "lora_magnitude_vector"}

    def products(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return y, self.BAx(x)


class LoRALayer(Branched):
    r"""A frozen layer with the LoRA branches of all named adapters."""


@dataclass(frozen=True)
class LoRA(Started):
    r"""LoRA on the modules that `targets` name.

    r: rank of the update. alpha: the update is scaled by alpha / r, or by alpha / sqrt(r) with `rslora`
    (Kalajdzievski 2023). targets: names as in peft, such as ("q_proj", "v_proj"), a regular expression for whole
    paths, or "all-linear"; None: query and value, as in the paper. dropout: on the input of the branch. dora: learn
    magnitude and direction apart.

    As in peft: rank_pattern, alpha_pattern: r and alpha of single layers by a regular expression for the last parts of
    their paths, such as {"layers.0.*q_proj": 4}; the first that matches counts. layers: numbers of the blocks to adapt
    (peft: layers_to_transform). exclude: names, or a pattern, of targets to leave alone. modules_to_save: modules that
    train whole, such as ("lm_head",), besides the task head. lora_bias: a bias beside B. init: where A and B start,
    "pissa", "olora", "eva" or, beside a base in 4 bits, "loftq" (`lora_starts.py`); None is the paper's.

    Raises CourseError for a rank or alpha that makes no sense and, on attaching, for a target that names nothing.
    """

    r: int = 8
    alpha: float = 16
    targets: Names = None
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict, hash=False)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict, hash=False)
    layers: tuple[int, ...] | int | None = None
    exclude: Names = None
    modules_to_save: tuple[str, ...] = ()
    lora_bias: bool = False
    init: str | None = None
    kind: ClassVar[str] = "LORA"
    layer: ClassVar[type[Branched]] = LoRALayer
    entries: ClassVar[tuple[Setting, ...]] = ENTRIES

    def __post_init__(self) -> None:
        keep(self, **checked(self))

    def __repr__(self) -> str:
        return shown(self, self.entries)

    @property
    def scaling(self) -> float:
        r"""$s$: $\alpha / r$, or $\alpha / \sqrt{r}$ for rsLoRA."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)

    def at(self, path: str, module: nn.Module | None = None) -> LoRA:
        r"""This LoRA with the r and alpha that its patterns give the layer at `path`; checked to fit the `module`."""
        own = self
        if self.rank_pattern or self.alpha_pattern:
            r = own_setting(self.rank_pattern, path, self.r)
            alpha = own_setting(self.alpha_pattern, path, self.alpha)
            own = replace(self, r=r, alpha=alpha, rank_pattern={}, alpha_pattern={})
        if module is not None:
            check_place(own, path, module)
        return own

    @property
    def named(self) -> Targets:
        r"""The layers to adapt, with the paper's targets where none are given."""
        layers: Any = self.layers  # numbers by now
        return Targets(self.targets, QUERY_VALUE, layers, self.exclude, self.modules_to_save)

    def count(self, config: Any) -> int:
        r"""$\sum r (d_{in} + d_{out})$ over the adapted layers, each with its own r, and the modules that train whole.

        DoRA adds a magnitude, and `lora_bias` a bias, for each output.
        """
        layers = self.named.layers(config).items()
        updates = sum(counts.low_rank(m.d_in, m.d_out, self.at(path).r) for path, m in layers)
        outputs = sum(m.d_out for _, m in layers) * (self.dora + self.lora_bias)
        return updates + outputs + self.named.count_whole(config)

    def places(self, model: nn.Module) -> dict[str, nn.Module]:
        return self.named.modules(model, EVERY)

    def heads(self, model: nn.Module) -> list[str]:
        return [*super().heads(model), *self.named.whole_modules(model)]

    def touched(self, model: nn.Module) -> set[str]:
        whole = {f"{path}.{key}" for path in self.named.whole_modules(model) for key in ("weight", "bias")}
        return super().touched(model) | whole

    def branch(self, path: str, layer: Branched, config: Any) -> LoRABranch:
        if isinstance(layer.unwrapped, nn.Embedding):
            return (DoRAEmbedding if self.dora else LoRAEmbedding)(layer, self)
        if self.lora_bias:
            return BiasedLoRABranch(layer, self)
        if self.init in MOVED:
            return MovedLoRABranch(layer, self)
        return (DoRABranch if self.dora else FastLoRABranch)(layer, self)

    def _config(self, model: nn.Module) -> dict[str, Any]:
        return super()._config(model) | self.named.entries(model, self.places(model).values())

    def _check_config(self, config: dict[str, Any]) -> None:
        refuse_others(config)
        super()._check_config(config)
        check_same_start(self, config)

    @classmethod
    def restored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> LoRA:
        interop.same_method(cls.kind, config)
        refuse_others(config)
        return super().restored(resolved(config, tensors), tensors)
