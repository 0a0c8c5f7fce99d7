r"""LLaMA-Adapter (Zhang et al. 2023, arXiv:2303.16199): gated attention over trained prompts in the topmost blocks.

$$S = \operatorname{softmax}\Bigl(\frac{QK^\top}{\sqrt{d_h}}\Bigr)V
  + g \cdot \operatorname{softmax}\Bigl(\frac{QK_p^\top}{\sqrt{d_h}}\Bigr)V_p,
\qquad K_p = PW_k^\top,\; V_p = PW_v^\top,\; g = 0 \text{ at the start}$$

Two softmaxes, added: the words' own attention is untouched, and the gate $g$ scales the prompts' share only. The
prompts $P$ are no tokens of the sequence: nothing asks from their places, and their keys have no position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.architecture import Architecture, describe
from coursekit.errors import CourseError, unknown
from coursekit.methods.mechanism.attachment import Attachment, wrap
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import around
from coursekit.methods.mechanism.switch import Switch, Switched
from coursekit.methods.soft_prompts.attention import (
    ATTENTION,
    SITES,
    attention_paths,
    keys_values,
    like,
    queries,
)

#: How the gate becomes the factor $g$: itself, as in peft, or its tanh, as in the official training code.
GATES = ("raw", "tanh", "none")


@dataclass
class Forward:
    r"""What one pass through one attention has to remember."""

    prompts: dict[str, tuple[Tensor, Tensor]]  # by adapter: scaled keys, gated values
    rotation: tuple[Tensor, Tensor] | None
    asked: list[Tensor] = field(default_factory=list)  # what the query map made of the tokens


class PromptedAttention(Switched):
    r"""The attention of one block, to whose answer that of the prompts is added.

    The queries are the attention's own, caught where it makes them, and the prompts' answer is added where the output
    projection takes it up: neither projection is computed twice.
    """

    order = 2

    def __init__(self, attention: nn.Module, switch: Switch, arch: Architecture):
        super().__init__(attention, switch)
        self.arch, self.site = arch, SITES[arch.family]
        self.prompt = nn.ParameterDict()  # (1, n, d_model) by adapter, as peft keeps it
        self.gate = nn.ParameterDict()  # (1,), or (heads,)
        self.methods: dict[str, LlamaAdapter] = {}
        self.now: Forward | None = None

    def add(self, method: LlamaAdapter, name: str) -> list[nn.Parameter]:
        r"""Prompts from N(0, 1), as in the official code, and a gate of 0: nothing is changed yet."""
        self.methods[name] = method
        self.prompt[name] = nn.Parameter(torch.randn(1, method.n, self.arch.d_model, **like(self.base_layer)))
        if gates := method.gates(self.arch):
            self.gate[name] = nn.Parameter(torch.zeros(gates, **like(self.base_layer)))
        return [store[name] for store in (self.prompt, self.gate) if name in store]

    def forget(self, name: str) -> None:
        super().forget(name)
        self.methods.pop(name, None)

    def factor(self, name: str) -> Float[Tensor, "gates 1 1"]:
        r"""$g$, one for the block or one for each head."""
        gate = self.gate[name].view(-1, 1, 1)
        return torch.tanh(gate) if self.methods[name].gate == "tanh" else gate

    def keys_values(
        self, name: str, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "heads head_dim n"], Float[Tensor, "heads n head_dim"]]:
        r"""$K_p^\top / \sqrt{d_h}$ and $g V_p$: small tensors, so that scale and gate cost nothing for each token."""
        with self.switch.only(name):  # the maps may have LoRA of their own, for other rows than these
            k, v = keys_values(self.base_layer, self.arch, self.prompt[name][0].to(dtype))
        groups = self.arch.n_heads // self.arch.n_kv_heads
        # (kv_heads, n, head_dim) -> (heads, n, head_dim)
        k, v = k.repeat_interleave(groups, dim=0), v.repeat_interleave(groups, dim=0)
        gated = v if name not in self.gate else (self.factor(name) * v).to(v.dtype)
        return (k * self.base_layer.scaling).transpose(1, 2), gated

    def remember(self, module: nn.Module, inputs: Any, made: Tensor) -> None:
        r"""Hook of the query map."""
        if self.now is not None:
            self.now.asked.append(made)

    def before_output(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        r"""Hook of the output projection."""
        if self.now is None:
            return None
        return (self.added(inputs[0], projected=True), *inputs[1:])

    def speaking(self, x: Tensor) -> Iterator[tuple[str, Tensor | None]]:
        r"""(adapter with prompts in this block, its rows of `x`; None: all of them)."""
        if self.switch.rows is None:
            if self.switch.active in self.methods:
                yield self.switch.active, None
            return
        for name, index in self.switch.parts(x):
            if name in self.methods:
                yield name, index

    def added(
        self, answer: Float[Tensor, "batch seq d_q"], projected: bool
    ) -> Float[Tensor, "batch seq d_q"]:
        r"""`answer`, what the words' attention says, with what the prompts of the adapters say that join it here."""
        (asked,) = self.now.asked
        for name, index in self.speaking(answer):
            if self.methods[name].joins_projection(self.arch) != projected:
                continue
            rotation = self.now.rotation
            if index is None:
                answer = answer + attend(queries(asked, self.arch, rotation), *self.now.prompts[name])
            else:
                if rotation is not None and len(rotation[0]) > 1:
                    rotation = rotation[0][index], rotation[1][index]
                said = attend(queries(asked[index], self.arch, rotation), *self.now.prompts[name])
                answer = answer.index_add(0, index, said)
        return answer

    def forward(self, hidden_states: Float[Tensor, "batch seq d_model"], *args: Any, **kwargs: Any) -> Any:
        names = [name for name, _ in self.speaking(hidden_states)]
        if not names:
            return self.base_layer(hidden_states, *args, **kwargs)
        # Before `now` is set: GPT-2's query map makes these too, and its hook is to remember the tokens only.
        prompts = {name: self.keys_values(name, hidden_states.dtype) for name in names}
        self.now = Forward(prompts, kwargs.get("position_embeddings"))
        try:
            answer, *rest = self.base_layer(hidden_states, *args, **kwargs)
            return self.added(answer, projected=False), *rest
        finally:
            self.now = None


def attend(
    q: Float[Tensor, "batch seq heads head_dim"],
    keys: Float[Tensor, "heads head_dim n"],
    values: Float[Tensor, "heads n head_dim"],
) -> Float[Tensor, "batch seq d_q"]:
    r"""$\operatorname{softmax}(qK)V$ for the same few keys and values in every row: one product for each head.

    keys: scaled by $1/\sqrt{d_h}$ already.
    """
    batch = q.shape[0]
    # (batch, seq, heads, head_dim) -> (heads, batch * seq, head_dim)
    rows = q.permute(2, 0, 1, 3).flatten(1, 2)
    # 16 bits are too few for a sum of exponentials.
    share = torch.softmax(rows @ keys, dim=-1, dtype=torch.promote_types(q.dtype, torch.float32))
    said = share.to(values.dtype) @ values  # (heads, batch * seq, head_dim)
    return said.unflatten(1, (batch, -1)).permute(1, 2, 0, 3).flatten(2)  # -> (batch, seq, heads * head_dim)


@dataclass(frozen=True)
class LlamaAdapter(Method):
    r"""LLaMA-Adapter: `n` prompts in each of the topmost `layers` blocks.

    layers: None: all but the first two, as in the paper (30 of 32). gate: "raw", one number that multiplies (peft),
    "tanh", the tanh of it (the official training code), or "none": factor 1 from the start, to see what the gate is
    for. per_head: one gate for each head (official) instead of one for each block (peft). projected: whether the
    prompts' answer goes through the attention's output projection, as in the paper; None: as peft does it, which adds
    it behind that projection in GPT-2 and before it elsewhere.

    The paper uses the same attention in an encoder too, RoBERTa; peft has it for Llama, Mistral and GPT-2.

    Raises CourseError for sizes that make no sense and, on attaching, for more blocks than the model has.
    """

    n: int = 10
    layers: int | None = None
    gate: str = "raw"
    per_head: bool = False
    projected: bool | None = None
    kind: ClassVar[str] = "ADAPTION_PROMPT"

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("layers", self.layers)):
            if value is None and name == "layers":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CourseError(
                    f"{name}={value!r} makes no prompts: take a whole number from 1 up, such as 10"
                )
        if self.gate is None:
            object.__setattr__(self, "gate", "none")
        if self.gate not in GATES:
            raise unknown("gate", self.gate, GATES)
        if self.projected not in (None, True, False):
            raise CourseError(
                f"projected={self.projected!r}: take True or False, or None for what peft does in each family"
            )

    def blocks(self, model: Any) -> int:
        r"""How many blocks have prompts, counted from the top; `model`: a config or an Architecture."""
        have = counts.architecture(model).n_layers
        layers = self.layers or max(1, have - 2)
        if layers > have:
            raise CourseError(
                f"layers={layers} is more than the {have} blocks of this model: take {have} at most"
            )
        return layers

    def gates(self, arch: Architecture) -> int:
        r"""Gates of one block."""
        return 0 if self.gate == "none" else arch.n_heads if self.per_head else 1

    def joins_projection(self, arch: Architecture) -> bool:
        r"""Whether the output projection takes up the prompts' answer; BERT has it outside of the attention."""
        if SITES[arch.family].output is None:
            return False
        return arch.family != "gpt2" if self.projected is None else self.projected

    def count(self, config: Any) -> int:
        r"""$l(nd + g)$: prompts and g gates in each of l blocks."""
        return counts.llama_adapter(config, self.n, self.blocks(config), self.gates(describe(config)))

    def _check(self, model: nn.Module) -> None:
        arch = describe(model.config)
        self.blocks(arch)
        if self.projected is False and arch.encoder:
            raise CourseError(
                f"projected=False: in {arch.family} the attention's answer always goes through the output projection"
            )

    def touched(self, model: nn.Module) -> set[str]:
        return {ATTENTION}

    def _insert(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        arch, trained = describe(model.config), []
        site = SITES[arch.family]
        for path in attention_paths(model)[-self.blocks(arch) :]:
            attention = around(model, path, PromptedAttention)
            if attention is None:
                attention = wrap(model, state, path, PromptedAttention, arch)
                inside = attention.base_layer
                state.hooks.append(getattr(inside, site.query).register_forward_hook(attention.remember))
                if site.output:
                    output = getattr(inside, site.output)
                    state.hooks.append(output.register_forward_pre_hook(attention.before_output))
            trained += attention.add(self, name)
        return trained

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        tensors = {}
        for path in attention_paths(model):
            layer = around(model, path, PromptedAttention)
            if layer is not None and name in layer.prompt:
                tensors[f"{path}.adaption_prompt"] = layer.prompt[name]
                if name in layer.gate:
                    tensors[f"{path}.adaption_gate"] = layer.gate[name]
        return tensors

    def _config(self, model: nn.Module) -> dict[str, Any]:
        arch = describe(model.config)
        config = interop.common_config(model, self.kind) | {
            "adapter_len": self.n,
            "adapter_layers": self.blocks(arch),
            "target_modules": SITES[arch.family].path.rpartition(".")[2],
        }
        # What peft does not have is written only where it is used, so that peft reads the rest without a warning.
        own = {key: getattr(self, key) for key, default in _OWN.items() if getattr(self, key) != default}
        return config | own

    def _check_config(self, config: dict[str, Any]) -> None:
        own = {"n": ("adapter_len", None)} | {key: (key, default) for key, default in _OWN.items()}
        if self.layers is not None:
            own["layers"] = ("adapter_layers", None)
        for mine, (key, default) in own.items():
            value, found = getattr(self, mine), config.get(key, default)
            if found != value:
                raise CourseError(
                    f"this checkpoint was trained with {mine}={found}, the method here has {value}; "
                    "LlamaAdapter.from_checkpoint(folder) makes the method that fits"
                )

    @classmethod
    def from_checkpoint(cls, folder: Any) -> LlamaAdapter:
        r"""The method with the hyperparameters of a checkpoint, ours or peft's."""
        config, _ = interop.read(folder)
        interop.same_method(cls.kind, config)
        own = {key: config.get(key, default) for key, default in _OWN.items()}
        return cls(n=config["adapter_len"], layers=config["adapter_layers"], **own)


#: Settings that peft's config does not know, with the values that are peft's way.
_OWN = {"gate": "raw", "per_head": False, "projected": None}
