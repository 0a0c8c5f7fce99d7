r"""LoRA: Low-Rank Adaptation (Hu et al. 2021, arXiv:2106.09685), with rsLoRA and DoRA.

$$h = W_0 x + \frac{\alpha}{r} B A x, \quad A \in \mathbb{R}^{r \times d_{in}}, B \in \mathbb{R}^{d_{out} \times r}$$
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from coursekit import counts, interop
from coursekit.architecture import Matrix, describe
from coursekit.autocast import autocast_dtype
from coursekit.errors import CourseError
from coursekit.methods.low_rank import LowRankLinear, low_rank_update
from coursekit.methods.mechanism.attachment import Attachment, wrap
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import all_linear, find, is_conv1d, matches, no_match, standing
from coursekit.methods.mechanism.switch import Switch, Switched

#: Query and value, as in the paper's experiments (section 4.2), under each family's names.
PAPER_TARGETS = {
    "bert": ("query", "value"),
    "roberta": ("query", "value"),
    "gpt2": ("c_attn",),  # query, key and value are one matrix here
    "opt": ("q_proj", "v_proj"),
    "llama": ("q_proj", "v_proj"),
}


#: What only peft has. Silently left out, each would give other answers.
BEYOND = ("alpha_pattern", "rank_pattern", "alora_invocation_tokens", "layer_replication", "use_qalora")
BEYOND += ("use_bdlora", "arrow_config", "kasa_config", "monteclora_config")
#: Starts of peft's that take their share out of the base weights.
MOVING = ("pissa", "olora", "corda", "loftq", "lora_ga")


class LoRALayer(Switched, ABC):
    r"""A frozen layer with low-rank updates beside it, one for each named adapter."""

    def __init__(self, layer: nn.Module, switch: Switch):
        super().__init__(layer, switch)
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        self.magnitude = nn.ParameterDict()  # DoRA's m, one number for each output
        self.dropout = nn.ModuleDict()
        self.scaling: dict[str, float] = {}

    @property
    def weight(self) -> nn.Parameter:
        r"""The frozen weight, for code that looks at `layer.weight`."""
        return self.bare.weight

    @property
    def W(self) -> Float[Tensor, "out in"]:
        r"""The frozen weight as $W$ of $Wx$. An embedding and GPT-2's Conv1D store it the other way round."""
        return self.weight.t() if self.transposed else self.weight

    @property
    def transposed(self) -> bool:
        r"""Whether the layer stores $W^\top$."""
        return isinstance(self.bare, (Conv1D, nn.Embedding))

    def add(self, method: LoRA, name: str) -> list[nn.Parameter]:
        r"""New parameters for adapter `name`. After this the layer still answers exactly as before: B = 0."""
        W = self.W  # once: a base in 4 bits unpacks it each time
        d_out, d_in = W.shape
        # A 16-bit base gets fp32 adapters: an update of 1e-4 would vanish in bf16's seven bits.
        dtype = torch.float64 if W.dtype == torch.float64 else torch.float32
        A, B = (torch.empty(s, device=W.device, dtype=dtype) for s in ((method.r, d_in), (d_out, method.r)))
        self.start(A, B)
        self.lora_A[name], self.lora_B[name] = nn.Parameter(A), nn.Parameter(B)
        self.dropout[name] = nn.Dropout(method.dropout) if method.dropout else nn.Identity()
        self.scaling[name] = method.scaling
        if method.dora:
            self.magnitude[name] = nn.Parameter(row_norm(W.to(dtype) + self.delta(name)))  # m = ||W||
        return [store[name] for store in (self.lora_A, self.lora_B, self.magnitude) if name in store]

    def start(self, A: Float[Tensor, "r in"], B: Float[Tensor, "out r"]) -> None:
        r"""The paper's start, as its code has it: A random, B = 0, so that BA = 0."""
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        nn.init.zeros_(B)

    def delta(self, name: str) -> Float[Tensor, "out in"]:
        r"""$\Delta W = sBA$ of adapter `name`."""
        return (self.lora_B[name] @ self.lora_A[name]) * self.scaling[name]

    def folded(self, name: str) -> Float[Tensor, "out in"]:
        r"""The single matrix that does what the frozen layer and adapter `name` do together."""
        W = self.W + self.delta(name).to(self.W.dtype)
        if name in self.magnitude:
            W = (self.magnitude[name] / row_norm(W)).to(W.dtype)[:, None] * W
        return W

    def dora_scale(self, name: str) -> Float[Tensor, " out"]:
        r"""$m / \lVert W + \Delta W \rVert$ for each output; the norm is a constant for the gradient (section 4.3)."""
        A, B, s = self.lora_A[name], self.lora_B[name], self.scaling[name]
        return self.magnitude[name] / row_norm(self.W.to(A.dtype) + s * (B @ A)).detach()

    def forget(self, name: str) -> None:
        super().forget(name)
        self.scaling.pop(name, None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        if self.switch.rows is None:
            name = self.switch.active
            return self.update(y, x, name) if name in self.scaling else y
        shape, rows = y.shape, sum(map(len, self.switch.rows.values()))
        if y.dim() == 2 and len(y) % rows == 0:  # OPT's feed-forward gets all tokens in one dimension
            # (batch * seq, width) -> (batch, seq, width)
            x, y = (part.view(rows, -1, part.shape[-1]) for part in (x, y))
        for name, index in self.switch.parts(x):
            if name in self.scaling:  # None, the bare base, is in no table
                y = y.index_copy(0, index, self.update(y[index], x[index], name, index))
        return y.view(shape)

    @abstractmethod
    def update(self, y: Tensor, x: Tensor, name: str, rows: Tensor | None = None) -> Tensor:
        r"""`y`, what the frozen layer answered to `x`, with the update of adapter `name`.

        rows: which rows of the batch these are, None where they are all.
        """


class LoRALinear(LoRALayer):
    r"""LoRA on `nn.Linear`, or on GPT-2's `Conv1D`."""

    def forward(self, x: Tensor) -> Tensor:
        name = self.switch.active
        if self.switch.rows is None and name in self.scaling and self.is_plain(x, name):
            W, b = self.base_layer.weight, self.base_layer.bias
            return LowRankLinear.apply(x, W, b, self.lora_A[name], self.lora_B[name], self.scaling[name])
        return super().forward(x)

    def is_plain(self, x: Tensor, name: str) -> bool:
        r"""Whether frozen layer and branch can be one operation: nothing but $Wx + b$, one precision, no dropout."""
        layer = self.base_layer
        return (
            type(layer) is nn.Linear
            and layer.weight.dtype == self.lora_A[name].dtype == x.dtype
            and not (layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad))
            and name not in self.magnitude
            and not (self.training and isinstance(self.dropout[name], nn.Dropout))
            # Somebody's hook, or an offloaded layer, wants the layer itself to be called.
            and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)
            and "forward" not in layer.__dict__
            and autocast_dtype(x) is None
        )

    def update(
        self,
        y: Float[Tensor, "*batch out"],
        x: Float[Tensor, "*batch in"],
        name: str,
        rows: Int[Tensor, " some"] | None = None,
    ) -> Float[Tensor, "*batch out"]:
        r"""$h = W_0 x + sBAx$ (equation 3)."""
        A, B, s = self.lora_A[name], self.lora_B[name], self.scaling[name]
        dropped = self.dropout[name](x)  # dropout is on the branch's input only
        if name not in self.magnitude:
            return low_rank_update(y, dropped, A, B, s)
        return self.update_dora(y, x, dropped, name)

    def update_dora(self, y: Tensor, x: Tensor, dropped: Tensor, name: str) -> Tensor:
        r"""$h = \frac{m}{\lVert W + \Delta W \rVert} (W + \Delta W) x$ (DoRA, Liu et al. 2024, equation 5).

        Written as y plus a change, so that at the start,
        where m = ||W||, the change is exactly 0. Under dropout the direction's input is dropped too, as in peft.
        """
        A, B, s = self.lora_A[name], self.lora_B[name], self.scaling[name]
        scale, bias = self.dora_scale(name), self.bare.bias
        if (
            dropped is x and self.base_layer is self.bare
        ):  # with another method in between, y has that one's bias
            Wx = y if bias is None else y - bias
        else:
            Wx = F.linear(dropped.to(A.dtype), self.W.to(A.dtype))
        BAx = F.linear(F.linear(dropped.to(A.dtype), A), B)
        return (y + ((scale - 1) * Wx + scale * BAx * s)).to(y.dtype)


class LoRAEmbedding(LoRALayer):
    r"""LoRA on an embedding, whose table is $W^\top$: a row of it is the image of a one-hot vector."""

    def start(self, A: Float[Tensor, "r in"], B: Float[Tensor, "out r"]) -> None:
        r"""The other way round than for a linear layer: A = 0, B random."""
        nn.init.zeros_(A)
        nn.init.normal_(B)

    def update(
        self,
        y: Float[Tensor, "*batch out"],
        x: Int[Tensor, "*batch"],
        name: str,
        rows: Int[Tensor, " some"] | None = None,
    ) -> Float[Tensor, "*batch out"]:
        r"""$h = W_0 x + sBAx$, where $Ax$ is a column of A."""
        A, B, s = self.lora_A[name], self.lora_B[name], self.scaling[name]
        Ax = F.embedding(x, A.t(), self.bare.padding_idx)  # (*batch) -> (*batch, r)
        BAx = (Ax @ B.t()) * s  # (*batch, r)(r, out) -> (*batch, out)
        if name in self.magnitude:
            scale = self.dora_scale(name)
            return (y + ((scale - 1) * y + scale * BAx)).to(y.dtype)
        return (y + BAx).to(y.dtype)


def row_norm(W: Float[Tensor, "out in"]) -> Float[Tensor, " out"]:
    r"""Length of each row of W: what DoRA calls the magnitude of each output."""
    return torch.linalg.norm(W, dim=1)


@dataclass(frozen=True)
class LoRA(Method):
    r"""LoRA on the modules that `targets` name.

    r: rank of the update. alpha: the update is scaled by alpha / r, or by alpha / sqrt(r) with `rslora`
    (Kalajdzievski 2023). targets: names as in peft, such as ("q_proj", "v_proj"), or "all-linear"; None: query and
    value, as in the paper. dropout: on the input of the branch. dora: learn magnitude and direction apart.

    Raises CourseError for a rank or alpha that makes no sense and, on attaching, for a target that names nothing.
    """

    r: int = 8
    alpha: float = 16
    targets: tuple[str, ...] | str | None = None
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    kind: ClassVar[str] = "LORA"
    wrapper: ClassVar[type[LoRALinear]] = LoRALinear

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise CourseError(f"r={self.r!r} is no rank: take a whole number from 1 up, such as 8")
        if not isinstance(self.alpha, Real) or not self.alpha > 0:
            raise CourseError(
                f"alpha={self.alpha!r} would switch the update off: take a number above 0, such as 16"
            )
        if not isinstance(self.dropout, Real) or not 0 <= self.dropout < 1:
            raise CourseError(f"dropout={self.dropout!r} is no probability below 1: take 0 for none")
        if isinstance(self.targets, str) and self.targets != "all-linear":
            object.__setattr__(self, "targets", (self.targets,))
        elif isinstance(self.targets, (list, set)):
            object.__setattr__(self, "targets", tuple(self.targets))
        if self.targets == ():
            raise CourseError('targets is empty: name at least one module, such as ("q_proj", "v_proj")')
        named = isinstance(self.targets, tuple) and all(isinstance(target, str) for target in self.targets)
        if not (named or self.targets in (None, "all-linear")):
            raise CourseError(
                f'targets={self.targets!r}: give names of modules, such as ("q_proj", "v_proj")'
            )

    @property
    def scaling(self) -> float:
        r"""$s$: $\alpha / r$, or $\alpha / \sqrt{r}$ for rsLoRA."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)

    def matrices(self, config: Any) -> list[Matrix]:
        r"""The weight matrices that get an update in the model that `config` describes."""
        shapes = describe(config)
        if self.targets == "all-linear":
            return [m for m in shapes.matrices if m.per_layer and m.kind != "embedding"]
        targets = self.targets or PAPER_TARGETS[shapes.family]
        paths = {shapes.path(m): m for m in shapes.matrices}
        for target in targets:
            if not any(matches(path, target) for path in paths):
                raise no_match(target, paths)
        return [m for path, m in paths.items() if any(matches(path, t) for t in targets)]

    def count(self, config: Any) -> int:
        r"""$\sum r (d_{in} + d_{out})$ over the adapted matrices; DoRA adds one magnitude for each output."""
        return counts.lora(describe(config), self.matrices(config), self.r, dora=self.dora)

    def _merged_weights(self, model: nn.Module, name: str) -> dict[str, dict[str, Tensor]]:
        r"""$W = W_0 + sBA$, in place of the frozen weight: from then on no extra layer, so no extra latency."""
        return {
            path: {"weight": _stored(layer, layer.folded(name))}
            for path, layer in lora_layers(model).items()
            if name in layer.scaling
        }

    def touched(self, model: nn.Module) -> set[str]:
        return {f"{path}.weight" for path in self._modules(model)}

    def _modules(self, model: nn.Module) -> dict[str, nn.Module]:
        # A layer that already carries another adapter is one module to the targets, not a wrapper with parts.
        linear = (nn.Linear, Conv1D, LoRALinear)
        if self.targets == "all-linear":
            return all_linear(model, linear)
        targets = self.targets or PAPER_TARGETS[describe(model.config).family]
        return find(model, targets, (*linear, nn.Embedding, LoRAEmbedding))

    def _check(self, model: nn.Module) -> None:
        for path, module in self._modules(model).items():
            if isinstance(module, nn.Embedding) and type(module).forward is not nn.Embedding.forward:
                raise CourseError(
                    f"{path} is no plain embedding ({type(module).__name__}), LoRA cannot stand beside it"
                )
            W = module.W if isinstance(module, LoRALayer) else module.weight
            if self.r > min(W.shape):
                raise CourseError(
                    f"r={self.r} is above the rank that {path} can have: it is {W.shape[0]} x {W.shape[1]}, so "
                    f"take r up to {min(W.shape)}"
                )

    def _insert(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        trained = []
        for path, module in self._modules(model).items():
            if not isinstance(module, LoRALayer):
                wrapper = LoRAEmbedding if isinstance(module, nn.Embedding) else self.wrapper
                module = wrap(model, state, path, wrapper)
            trained += module.add(self, name)
        return trained

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        tensors = {}
        for path, layer in lora_layers(model).items():
            if name not in layer.scaling:
                continue
            # peft keeps an embedding's factors as bare parameters and a linear layer's as small Linear modules
            key = (
                f"{path}.lora_embedding_{{}}"
                if isinstance(layer, LoRAEmbedding)
                else f"{path}.lora_{{}}.weight"
            )
            tensors[key.format("A")], tensors[key.format("B")] = layer.lora_A[name], layer.lora_B[name]
            if name in layer.magnitude:
                tensors[f"{path}.lora_magnitude_vector"] = layer.magnitude[name]
        return tensors

    def _config(self, model: nn.Module) -> dict[str, Any]:
        layers = lora_layers(model)
        shapes = describe(model.config)
        if self.targets == "all-linear":
            targets = sorted({m.name for m in self.matrices(model.config)})
        else:
            targets = list(self.targets or PAPER_TARGETS[shapes.family])
        return interop.common_config(model, self.kind) | {
            "r": self.r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": targets,
            "use_rslora": self.rslora,
            "use_dora": self.dora,
            "fan_in_fan_out": any(is_conv1d(layer.bare) for layer in layers.values()),
            "bias": "none",
        }

    def _check_config(self, config: dict[str, Any]) -> None:
        if (biases := config.get("bias", "none")) != "none":
            raise CourseError(
                f"this checkpoint was trained with bias={biases!r}, LoRA and biases at once: load it with "
                "methods.from_checkpoint(folder)"
            )
        _plain(config)
        own = {"r": self.r, "lora_alpha": self.alpha, "use_rslora": self.rslora, "use_dora": self.dora}
        for key, value in own.items():
            if config.get(key, value) != value:
                raise CourseError(
                    f"this checkpoint was trained with {key}={config[key]}, the method here has {value}; "
                    "LoRA.from_checkpoint(folder) makes the method that fits"
                )

    @classmethod
    def from_checkpoint(cls, folder: Any) -> LoRA:
        r"""The method with the hyperparameters of a checkpoint, ours or peft's."""
        config, _ = interop.read(folder)
        method = cls._of(config, folder)
        method._check_config(config)
        return method

    @classmethod
    def _of(cls, config: dict[str, Any], folder: Any) -> LoRA:
        interop.same_method(cls.kind, config)
        _plain(config)
        targets = config["target_modules"]
        if not isinstance(targets, list) and targets != "all-linear":
            raise CourseError(
                f"the checkpoint in {folder} names its targets by the pattern {targets!r}; give them as a list"
            )
        return cls(
            r=config["r"],
            alpha=config["lora_alpha"],
            targets=targets if isinstance(targets, str) else tuple(sorted(targets)),
            dropout=config.get("lora_dropout", 0.0),
            rslora=config.get("use_rslora", False),
            dora=config.get("use_dora", False),
        )


def _plain(config: dict[str, Any]) -> None:
    r"""Raise CourseError for a checkpoint of peft's whose tensors do not mean $W_0 x + sBAx$ with one s for all."""
    for key in BEYOND:
        if config.get(key):
            raise CourseError(
                f"this checkpoint was trained with {key}={config[key]!r}, which the LoRA here does not have: use peft"
            )
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.startswith(MOVING):
        raise CourseError(
            f"this checkpoint was trained on weights that init_lora_weights={start!r} had changed first: let peft "
            "save it with path_initial_model_for_weight_conversion, as a plain LoRA"
        )


def lora_layers(model: nn.Module) -> dict[str, LoRALayer]:
    return {path: module for path, module in standing(model) if isinstance(module, LoRALayer)}


def _stored(layer: LoRALayer, W: Tensor) -> Tensor:
    return (W.t() if layer.transposed else W).contiguous()
