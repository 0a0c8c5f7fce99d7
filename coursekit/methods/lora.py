r"""LoRA: Low-Rank Adaptation (Hu et al. 2021, arXiv:2106.09685), with rsLoRA and DoRA.

$$h = W_0 x + \frac{\alpha}{r} B A x, \quad A \in \mathbb{R}^{r \times d_{in}}, B \in \mathbb{R}^{d_{out} \times r}$$
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.architecture import Matrix
from coursekit.errors import CourseError, flag, number, whole
from coursekit.methods.dora import Turned
from coursekit.methods.lora_config import refuse_others
from coursekit.methods.low_rank import FastTwin
from coursekit.methods.mechanism.branch import Branch, Branched, BranchMethod, fan_in_fan_out
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.default_targets import QUERY_VALUE
from coursekit.methods.mechanism.precision import like
from coursekit.methods.mechanism.targets import EVERY, Names, Targets, checked_names, names_in_config


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
        self.start()

    def forward(
        self, y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"]
    ) -> Float[Tensor, "*batch out"]:
        r"""$h = W_0 x + s\,B(Ax)$ (equation 3), where y is $W_0 x$."""
        return y + self.dropout(x) @ self.A.T @ self.B.T * self.s  # (*batch, in)(in, r)(r, out)

    def start(self) -> None:
        r"""The paper's start, as its code has it."""
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        nn.init.zeros_(self.B)

    @property
    def delta(self) -> Float[Tensor, "out in"]:
        r"""$\Delta W = sBA$."""
        return (self.B @ self.A) * self.s

    def merged(self, W: Float[Tensor, "out in"], b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        r"""$W_0 + sBA$: from then on no extra layer, and so no extra latency."""
        return W + self.delta.to(W.dtype), b


class FastLoRABranch(FastTwin, LoRABranch):
    r"""`LoRABranch` as a model runs it: the same bits, with the backward pass written out (`low_rank.py`)."""


class LoRAEmbedding(LoRABranch):
    r"""LoRA on an embedding, whose table is $W^\top$: x is one-hot, and $Ax$ a column of A."""

    keys: ClassVar[dict[str, str]] = {"A": "lora_embedding_A", "B": "lora_embedding_B"}

    def __init__(self, layer: LoRALayer, method: LoRA):
        super().__init__(layer, method)
        self.padding_idx = layer.bare.padding_idx

    def start(self) -> None:
        r"""The other way round than for a linear layer: A = 0, B random."""
        nn.init.zeros_(self.A)
        nn.init.normal_(self.B)

    def BAx(self, x: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch out"]:
        r"""$B(Ax)$, where the column of the padding token gets no gradient, as in the frozen table."""
        Ax = F.embedding(x, self.A.T, self.padding_idx)  # (*batch) -> (*batch, r)
        return Ax @ self.B.T  # (*batch, r)(r, out)

    def forward(
        self, y: Float[Tensor, "*batch out"], x: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch out"]:
        r"""$h = W_0 x + s\,B(Ax)$."""
        return y + self.BAx(x) * self.s


class DoRABranch(Turned, LoRABranch):
    r"""LoRA that learns the length of W's rows apart from their direction (`dora.py`)."""

    keys: ClassVar[dict[str, str]] = LoRABranch.keys | {"m": "lora_magnitude_vector"}


class DoRAEmbedding(Turned, LoRAEmbedding):
    r"""DoRA on an embedding: what the frozen table answers is y itself."""

    keys: ClassVar[dict[str, str]] = LoRAEmbedding.keys | {"m": "lora_magnitude_vector"}

    def products(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return y, self.BAx(x)


class LoRALayer(Branched):
    r"""A frozen layer with the LoRA branches of all named adapters."""


@dataclass(frozen=True)
class LoRA(BranchMethod):
    r"""LoRA on the modules that `targets` name.

    r: rank of the update. alpha: the update is scaled by alpha / r, or by alpha / sqrt(r) with `rslora`
    (Kalajdzievski 2023). targets: names as in peft, such as ("q_proj", "v_proj"), or "all-linear"; None: query and
    value, as in the paper. dropout: on the input of the branch. dora: learn magnitude and direction apart.

    Raises CourseError for a rank or alpha that makes no sense and, on attaching, for a target that names nothing.
    """

    r: int = 8
    alpha: float = 16
    targets: Names = None
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    kind: ClassVar[str] = "LORA"
    layer: ClassVar[type[Branched]] = LoRALayer
    entries: ClassVar[tuple[Setting, ...]] = (
        Setting("r"),
        Setting("alpha", "lora_alpha"),
        Setting("dropout", "lora_dropout", absent=0.0, binding=False),
        Setting("rslora", "use_rslora", absent=False),
        Setting("dora", "use_dora", absent=False),
        Setting("targets", "target_modules", binding=False, read=names_in_config),
    )

    def __post_init__(self) -> None:
        whole("r", self.r, least=1, such_as=8)
        number("alpha", self.alpha, above=0, such_as=16)
        number("dropout", self.dropout, least=0, below=1, such_as=0.1)
        flag("rslora", self.rslora)
        flag("dora", self.dora)
        object.__setattr__(self, "targets", checked_names(self.targets, ("q_proj", "v_proj")))

    @property
    def scaling(self) -> float:
        r"""$s$: $\alpha / r$, or $\alpha / \sqrt{r}$ for rsLoRA."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)

    @property
    def named(self) -> Targets:
        r"""The targets, with the paper's where none are given."""
        return Targets(self.targets, QUERY_VALUE)

    def matrices(self, config: Any) -> list[Matrix]:
        r"""The weight matrices that get an update in the model that `config` describes."""
        return self.named.matrices(config)

    def count(self, config: Any) -> int:
        r"""$\sum r (d_{in} + d_{out})$ over the adapted matrices; DoRA adds one magnitude for each output."""
        layers = self.named.layers(config).values()
        return sum(counts.low_rank(m.d_in, m.d_out, self.r) + (m.d_out if self.dora else 0) for m in layers)

    def places(self, model: nn.Module) -> dict[str, nn.Module]:
        return self.named.modules(model, EVERY)

    def branch(self, path: str, layer: Branched, config: Any) -> LoRABranch:
        if isinstance(layer.bare, nn.Embedding):
            return (DoRAEmbedding if self.dora else LoRAEmbedding)(layer, self)
        return (DoRABranch if self.dora else FastLoRABranch)(layer, self)

    def _check(self, model: nn.Module) -> None:
        for path, module in self.places(model).items():
            if isinstance(module, nn.Embedding) and type(module).forward is not nn.Embedding.forward:
                raise CourseError(
                    f"{path} is no plain embedding ({type(module).__name__}), LoRA cannot stand beside it"
                )
            rows, columns = module.weight.shape
            if self.r > min(rows, columns):
                raise CourseError(
                    f"r={self.r} is above the rank of {path}: it is {rows} x {columns}, so take r up to "
                    f"{min(rows, columns)}"
                )

    def _config(self, model: nn.Module) -> dict[str, Any]:
        return super()._config(model) | {
            "target_modules": self.named.listed(model.config),
            "fan_in_fan_out": fan_in_fan_out(self.places(model).values()),
            "bias": "none",
        }

    def _check_config(self, config: dict[str, Any]) -> None:
        refuse_others(config)
        super()._check_config(config)

    @classmethod
    def restored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> LoRA:
        interop.same_method(cls.kind, config)
        refuse_others(config)
        return super().restored(config, tensors)
