r"""Gates: one number between 0 and 1 for each text and place, by which a part of UniPELT is let through or held back.

$$g(x) = \frac{1}{T} \sum_{t=1}^{T} \sigma(w \cdot x_t + b)$$

What is averaged are the gates of a text's real tokens; how much padding a batch brings must not change an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coursekit import counts
from coursekit.architecture import describe
from coursekit.errors import CourseError
from coursekit.methods.adapters.bottleneck import Bottleneck
from coursekit.methods.adapters.pfeiffer import AfterAddition, PfeifferAdapter
from coursekit.methods.adapters.placement import AdapterSite
from coursekit.methods.lora import LoRA, LoRABranch, LoRALayer
from coursekit.methods.mechanism.attachment import Attachment
from coursekit.methods.mechanism.branch import Branched
from coursekit.methods.mechanism.modules import AdapterState, find_wrapper
from coursekit.methods.soft_prompts.attention import attention_paths, like
from coursekit.methods.soft_prompts.prefix import PrefixAttention, PrefixTuning


class Gate(nn.Linear):
    r"""$g$, one for each row. padded: average over padding as well, as in the authors' code."""

    def __init__(self, d: int, padded: bool, **where: Any):
        super().__init__(d, 1, **where)
        self.padded = padded
        nn.init.normal_(self.weight, std=0.02)  # half open at the start, as all linear maps of BERT start
        nn.init.zeros_(self.bias)

    def forward(
        self, x: Float[Tensor, "batch seq d"], real: Bool[Tensor, "batch seq"] | None
    ) -> Float[Tensor, "batch 1 1"]:
        # (batch, seq, d) -> (batch, seq, 1). Under autocast the product is rounded; the average is not.
        g = torch.sigmoid(super().forward(x.to(self.weight.dtype))).to(self.weight.dtype)
        if real is None or self.padded:
            return g.mean(1, keepdim=True)
        share = real[..., None].to(g.dtype)  # (batch, seq) -> (batch, seq, 1)
        return (g * share).sum(1, keepdim=True) / share.sum(1, keepdim=True).clamp(min=1)


@dataclass
class Seen:
    r"""Which tokens of the batch are real, (batch, seq), or None for all: what the gates of one block have to know."""

    switch: AdapterState
    real: Bool[Tensor, "batch seq"] | None = None

    @property
    def now(self) -> Bool[Tensor, "some seq"] | None:
        r"""The same for the rows that are being answered: all of them, or one adapter's rows of a mixed batch."""
        return self.rows(self.switch.part)

    def rows(self, index: Int[Tensor, " some"] | None) -> Bool[Tensor, "some seq"] | None:
        r"""The same for some rows; None: for all."""
        return self.real if self.real is None or index is None else self.real[index]


def real_tokens(mask: Any, x: Float[Tensor, "batch seq d"]) -> Bool[Tensor, "batch seq"] | None:
    r"""The tokens that some token looks at, from the mask that an attention is given; None where all are.

    mask: (batch, heads, seq, seq), of booleans (True: look) or added to the scores; (batch, seq) for flash attention.
    """
    if not isinstance(mask, Tensor):
        return None
    if mask.ndim == 2:
        return mask.bool()
    looks = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return looks.any(dim=2).any(dim=1).expand(len(x), -1)


# Prefix ---------------------------------------------------------------------------------------------------------


class GatedPrefixAttention(PrefixAttention):
    r"""An attention behind a prefix whose keys and values are scaled by $g$ of what the attention reads."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.gates, self.seen = nn.ModuleDict(), Seen(self.switch)

    def add_gate(self, name: str, padded: bool) -> list[nn.Parameter]:
        r"""The gate of adapter `name`."""
        self.gates[name] = Gate(self.arch.d_model, padded, **like(self.base_layer))
        return list(self.gates[name].parameters())

    def chosen(self, x: Float[Tensor, "batch seq d_model"]) -> Any:
        if (found := super().chosen(x)) is None:
            return None
        keys, values, shown = found
        if self.switch.rows is None:
            g = self.gates[self.switch.active](x, self.seen.real)
        else:
            g = x.new_ones(len(x), 1, 1, dtype=keys.dtype)  # rows without a prefix have nothing that it could scale
            for name, index in self.switch.parts(x):
                if name in self.gates:
                    g = g.index_copy(0, index, self.gates[name](x[index], self.seen.rows(index)).to(g.dtype))
        g = g[..., None]  # (batch, 1, 1) -> (batch, 1, 1, 1), beside (batch, kv_heads, n, head_dim)
        return keys * g, values * g, shown

    def forward(self, hidden_states: Tensor, *, attention_mask: Any = None, **kwargs: Any) -> Any:
        # First in the block, and again when a checkpoint recomputes the block: the other gates of the block, which are
        # asked later, are not shown the mask.
        self.seen.real = real_tokens(attention_mask, hidden_states)
        return super().forward(hidden_states, attention_mask=attention_mask, **kwargs)


@dataclass(frozen=True)
class GatedPrefix(PrefixTuning):
    r"""`PrefixTuning` with a gate in each block."""

    padded: bool = False
    wrapper: ClassVar[type[PrefixAttention]] = GatedPrefixAttention

    def count(self, config: Any) -> int:
        r"""The prefix, and $L(d + 1)$."""
        return super().count(config) + gates(config)

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        trained = super()._insert(model, state, name, found)
        for layer in _attentions(model).values():
            trained += layer.add_gate(name, self.padded)
        return trained

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return super()._tensors(model, name) | {
            f"{path}.gate.{key}": value
            for path, layer in _attentions(model).items()
            for key, value in layer.gates[name].named_parameters()
        }


# Adapter --------------------------------------------------------------------------------------------------------


class GatedBottleneck(Bottleneck):
    r"""A bottleneck with the gate that scales what it adds."""

    def __init__(self, padded: bool, d: int, *args: Any):
        super().__init__(d, *args)
        self.gate = Gate(d, padded, device=self.up.weight.device, dtype=self.up.weight.dtype)


class GatedAfterAddition(AfterAddition):
    r"""$h \leftarrow g(x)\,A(x) + h$ with the x that A reads."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.seen = Seen(self.switch)

    def added(self, name: str | None, h: Tensor, x: Tensor) -> Tensor:
        if name not in self.adapters:
            return h
        A = self.adapters[name]
        x = x.to(A.down.weight.dtype)  # on a 16-bit base one copy for both, and not two that are kept
        return (h + A(x) * A.gate(x, self.seen.now)).to(h.dtype)


@dataclass(frozen=True)
class GatedPfeiffer(PfeifferAdapter):
    r"""`PfeifferAdapter` with a gate in each block."""

    padded: bool = False
    sites: ClassVar[dict[str, type[AdapterSite]]] = {"pfeiffer": GatedAfterAddition}

    def bottleneck(self, d: int, device: torch.device, dtype: torch.dtype) -> GatedBottleneck:
        return GatedBottleneck(self.padded, d, self.r, self.activation, self.init, device, dtype)

    def count_bottlenecks(self, config: Any) -> int:
        r"""$L(2dr + r + d)$ and $L(d + 1)$."""
        return super().count_bottlenecks(config) + gates(config)


# LoRA -----------------------------------------------------------------------------------------------------------


class GatedLoRABranch(LoRABranch):
    r"""LoRA whose gate stands where it has the constant $\alpha / r$."""

    def __init__(self, layer: LoRALayer, method: GatedLoRA):
        super().__init__(layer, method)
        self.gate = Gate(self.A.shape[1], method.padded, device=self.A.device, dtype=self.A.dtype)
        self.seen = Seen(layer.switch)

    def forward(self, y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        r"""$h = W_0 x + g(x)\,B(Ax)$."""
        return y + self.dropout(x) @ self.A.T @ self.B.T * self.gate(x, self.seen.now)

    def compute(self, y: Tensor, x: Tensor) -> Tensor:
        return self(y, x.to(self.A.dtype)).to(y.dtype)  # one copy of x for both; under autocast each rounds it itself

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {f"gate.{key}": value for key, value in self.gate.named_parameters()}

    def merged(self, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        raise CourseError(
            "a gated LoRA does not merge into the weights: its scale is another one for each text; keep it attached"
        )


@dataclass(frozen=True)
class GatedLoRA(LoRA):
    r"""`LoRA` with a gate at each matrix in the place of its scale."""

    padded: bool = False

    def count(self, config: Any) -> int:
        r"""The updates, and $d_{in} + 1$ for each matrix."""
        arch = describe(config)
        return super().count(config) + sum(arch.copies(m) * (m.d_in + 1) for m in self.named.matrices(config))

    def branch(self, path: str, layer: Branched, config: Any) -> GatedLoRABranch:
        return GatedLoRABranch(layer, self)


def gates(config: Any) -> int:
    r"""$L(d + 1)$: one gate in each block."""
    arch = counts.architecture(config)
    return arch.n_layers * (arch.d_model + 1)


def connect(model: nn.Module) -> None:
    r"""Let all gates of a block look at what its attention notes about the batch."""
    for path, attention in _attentions(model).items():
        block = path.partition(".attention")[0]
        for module in model.get_submodule(block).modules():
            if isinstance(module, (GatedAfterAddition, GatedLoRABranch)):
                module.seen = attention.seen


def _attentions(model: nn.Module) -> dict[str, GatedPrefixAttention]:
    return {path: find_wrapper(model, path, GatedPrefixAttention) for path in attention_paths(model)}
