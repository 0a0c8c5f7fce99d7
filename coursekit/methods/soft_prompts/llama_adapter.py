r"""LLaMA-Adapter (Zhang et al. 2023, arXiv:2303.16199): gated attention over trained prompts in the topmost blocks.

$$S = \operatorname{softmax}\Bigl(\frac{QK^\top}{\sqrt{d_h}}\Bigr)V
  + g \cdot \operatorname{softmax}\Bigl(\frac{QK_p^\top}{\sqrt{d_h}}\Bigr)V_p,
\qquad K_p = PW_k^\top,\; V_p = PW_v^\top,\; g = 0 \text{ at the start}$$

Two softmaxes, added: the words' own attention is untouched, and the gate $g$ scales the prompts' share only. The
prompts $P$ are no tokens of the sequence: no queries come from them, and their keys have no position.

The queries are the attention's own, caught by a hook where it makes them, and what the prompts add is put in by a
hook where the output projection takes it up: neither projection is computed twice.

    hidden states --> query layer --(remember)--> attention over the text --> words
                                        |                                       |
                                        +--> gated attention over prompts -----(+)--(before_output)--> projection

GPT-2 in peft adds behind the projection, and BERT has the projection outside of this module: there `forward` adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit import counts
from coursekit.architecture import Architecture, describe
from coursekit.errors import CourseError, flag, keep, one_of, whole
from coursekit.methods.mechanism.attachment import Attachment, wrap
from coursekit.methods.mechanism.checkpoint import Setting, agree
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper, find_wrapper
from coursekit.methods.soft_prompts.attention import ATTENTION, attention_paths, keys_values, like, names_of, queries
from coursekit.methods.soft_prompts.input_prompt import check_length


@dataclass
class Pass:
    r"""Tensors that one forward pass through one attention has to remember."""

    prompts: dict[str, tuple[Tensor, Tensor]]  # by adapter: scaled keys, gated values
    rotation: tuple[Tensor, Tensor] | None  # cosines and sines of the tokens' positions, in Llama
    asked: list[Tensor] = field(default_factory=list)  # what the query layer made of the tokens


class PromptedAttention(AdapterWrapper):
    r"""The attention of one block; for each adapter its prompts and gate, a `GatedPrompt`."""

    order = 2

    def __init__(self, attention: nn.Module, switch: AdapterState, arch: Architecture):
        super().__init__(attention, switch)
        self.arch = arch
        self.cap = getattr(attention, "attn_logit_softcapping", None)  # of Gemma 2
        self.prompts = nn.ModuleDict()  # by adapter
        self.projected = names_of(arch).output is not None and arch.family != "gpt2"
        self.now: Pass | None = None

    def remember(self, module: nn.Module, inputs: Any, made: Tensor) -> None:
        r"""Hook of the query layer."""
        if self.now is not None:
            self.now.asked.append(made)

    def before_output(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        r"""Hook of the output projection."""
        return None if self.now is None else (self.added(inputs[0]), *inputs[1:])

    def speaking(self, x: Tensor) -> Iterator[tuple[str, Tensor | None]]:
        r"""(adapter with prompts in this block, its rows of `x`; None: all of them)."""
        if self.switch.rows is None:
            if self.switch.active in self.prompts:
                yield self.switch.active, None
            return
        for name, index in self.switch.parts(x):
            if name in self.prompts:
                yield name, index

    def added(self, words: Float[Tensor, "batch seq d_q"]) -> Float[Tensor, "batch seq d_q"]:
        r"""`words`, the attention over the text, plus that over the prompts."""
        (asked,) = self.now.asked
        for name, index in self.speaking(words):
            prompt, rotation = self.prompts[name], self.now.rotation
            if index is None:
                q = queries(self.base_layer, self.arch, asked, rotation)
                words = words + prompt.fast(q, *self.now.prompts[name], self.cap)
            else:
                if rotation is not None and len(rotation[0]) > 1:
                    rotation = rotation[0][index], rotation[1][index]
                with self.switch.only(name):  # a norm of the queries may be trained, too
                    q = queries(self.base_layer, self.arch, asked[index], rotation)
                words = words.index_add(0, index, prompt.fast(q, *self.now.prompts[name], self.cap))
        return words

    def forward(self, hidden_states: Float[Tensor, "batch seq d_model"], *args: Any, **kwargs: Any) -> Any:
        names = [name for name, _ in self.speaking(hidden_states)]
        if not names:
            return self.base_layer(hidden_states, *args, **kwargs)
        # Before `now` is set: GPT-2's query layer makes these too, and its hook is to remember the tokens only.
        prompts = {name: self.keys_values(name, hidden_states) for name in names}
        self.now = Pass(prompts, kwargs.get("position_embeddings"))
        try:
            words, *rest = self.base_layer(hidden_states, *args, **kwargs)
            return words if self.projected else self.added(words), *rest
        finally:
            self.now = None

    def keys_values(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Scaled keys (heads, head_dim, n) and gated values (heads, n, head_dim) of adapter `name`."""
        with self.switch.only(name):  # the layers may have LoRA of their own, for other rows than these
            return self.prompts[name].keys_values(self.base_layer, self.arch, x.dtype)


#: How the gate becomes the factor $g$: itself, as in peft, or its tanh, as in the official training code.
GATES = ("raw", "tanh", "none")


class GatedPrompt(nn.Module):
    r"""The prompts $P$ of one adapter in one block, and the gate of the attention over them."""

    def __init__(self, n: int, d_model: int, gates: int, tanh: bool, **where: Any):
        super().__init__()
        self.tanh = tanh
        self.prompt = nn.Parameter(torch.randn(1, n, d_model, **where))  # N(0, 1), as in the official code
        self.gate = nn.Parameter(torch.zeros(gates, **where)) if gates else None  # one a block, or one a head

    def forward(
        self,
        words: Float[Tensor, "batch seq d_q"],  # the first summand: attention over the text
        q: Float[Tensor, "batch seq heads head_dim"],
        k_p: Float[Tensor, "heads n head_dim"],
        v_p: Float[Tensor, "heads n head_dim"],
    ) -> Float[Tensor, "batch seq d_q"]:
        r"""The words' own attention plus the gate times the prompts'."""
        scores = q.transpose(1, 2) @ k_p.mT / q.shape[-1] ** 0.5  # (batch, heads, seq, n)
        said = self.factor() * (torch.softmax(scores, dim=-1) @ v_p)  # (batch, heads, seq, head_dim)
        return words + said.transpose(1, 2).flatten(2)  # -> (batch, seq, heads * head_dim)

    def factor(self) -> Float[Tensor, "gates 1 1"] | float:
        r"""$g$, one for the block or one for each head; 1 without a gate."""
        if self.gate is None:
            return 1.0
        gate = self.gate.view(-1, 1, 1)
        return torch.tanh(gate) if self.tanh else gate

    def keys_values(
        self, attention: nn.Module, arch: Architecture, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "heads head_dim n"], Float[Tensor, "heads n head_dim"]]:
        r"""$K_p^\top / \sqrt{d_h}$ and $g V_p$: small tensors, so that scale and gate cost nothing for each token."""
        k, v = keys_values(attention, arch, self.prompt[0].to(dtype))
        groups = arch.n_heads // arch.n_kv_heads
        # (kv_heads, n, head_dim) -> (heads, n, head_dim)
        k, v = k.repeat_interleave(groups, dim=0), v.repeat_interleave(groups, dim=0)
        gated = v if self.gate is None else (self.factor() * v).to(v.dtype)
        scaling = getattr(attention, "scaling", arch.head_dim**-0.5)  # ModernBERT has no name for it
        return (k * scaling).transpose(1, 2), gated

    def fast(
        self, q: Float[Tensor, "batch seq heads head_dim"], keys: Float[Tensor, "heads head_dim n"],
        values: Float[Tensor, "heads n head_dim"], cap: float | None = None,
    ) -> Float[Tensor, "batch seq d_q"]:  # fmt: skip
        r"""The second summand, from what `keys_values` gave: the same as `forward`, and a quarter of its work.

        Keys and values are the same few in every row: one product for each head. cap: Gemma 2 keeps its scores between
        -cap and cap, with a tanh.
        """
        batch = q.shape[0]
        # (batch, seq, heads, head_dim) -> (heads, batch * seq, head_dim)
        rows = q.permute(2, 0, 1, 3).flatten(1, 2)
        # 16 bits are too few for a sum of exponentials.
        scores = rows @ keys if cap is None else cap * torch.tanh(rows @ keys / cap)
        share = torch.softmax(scores, dim=-1, dtype=torch.promote_types(q.dtype, torch.float32))
        said = share.to(values.dtype) @ values  # (heads, batch * seq, head_dim)
        return said.unflatten(1, (batch, -1)).permute(1, 2, 0, 3).flatten(2)  # -> (batch, seq, heads * head_dim)


@dataclass(frozen=True)
class LlamaAdapter(Method):
    r"""LLaMA-Adapter: `n` prompts in each of the topmost `layers` blocks.

    layers: None: all but the first two, as in the paper (30 of 32). gate: "raw", g itself is trained (peft), "tanh",
    $g = \tanh$ of what is trained (the official training code), or "none": g = 1 from the start, to see what the gate
    is for. per_head: one gate for each head (official) instead of one for each block (peft). The prompts' share goes
    through the attention's output projection, as in the paper; in GPT-2 it is added after that, as in peft.

    The paper uses the same attention in an encoder too, RoBERTa; peft has it for Llama, Mistral and GPT-2.

    Raises CourseError for sizes that make no sense and, on attaching, for more blocks than the model has.
    """

    n: int = 10
    layers: int | None = None
    gate: str = "raw"
    per_head: bool = False
    kind: ClassVar[str] = "ADAPTION_PROMPT"
    entries = (
        Setting("n", "adapter_len"), Setting("layers", "adapter_layers"), Setting("gate", absent="raw"),
        Setting("per_head", absent=False),
    )  # fmt: skip

    def __post_init__(self) -> None:
        keep(self, n=whole("n", self.n, least=1, such_as=10))
        if self.layers is not None:
            keep(self, layers=whole("layers", self.layers, least=1, such_as=30))
        if self.gate is None:
            object.__setattr__(self, "gate", "none")
        one_of("gate", self.gate, GATES)
        flag("per_head", self.per_head)

    def blocks(self, model: Any) -> int:
        r"""How many blocks have prompts, counted from the top; `model`: a config or an Architecture."""
        have = counts.architecture(model).n_layers
        layers = self.layers or max(1, have - 2)
        if layers > have:
            raise CourseError(f"layers={layers} is more than the {have} blocks of this model: take at most {have}")
        return layers

    def gates(self, arch: Architecture) -> int:
        r"""Gates of one block."""
        return 0 if self.gate == "none" else arch.n_heads if self.per_head else 1

    def count(self, config: Any) -> int:
        r"""$l(nd + g)$: prompts and g gates in each of l blocks."""
        return counts.llama_adapter(config, self.n, self.blocks(config), self.gates(describe(config)))

    def _check(self, model: nn.Module) -> None:
        arch = describe(model.config)
        names_of(arch)  # an error where prompts are not defined
        self.blocks(arch)

    def touched(self, model: nn.Module) -> set[str]:
        return {ATTENTION}

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        arch, trained = describe(model.config), []
        for path in attention_paths(model)[-self.blocks(arch) :]:
            layer = find_wrapper(model, path, PromptedAttention) or _prompted(model, state, path, arch)
            prompt = layer.prompts[name] = GatedPrompt(
                self.n, arch.d_model, self.gates(arch), self.gate == "tanh", **like(layer.base_layer)
            )  # fmt: skip
            trained += prompt.parameters()
        return trained

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        tensors = {}
        for path in attention_paths(model):
            layer = find_wrapper(model, path, PromptedAttention)
            if layer is not None and name in layer.prompts:
                for key, value in layer.prompts[name].named_parameters():  # prompt, gate
                    tensors[f"{path}.adaption_{key}"] = value
        return tensors

    def _config(self, model: nn.Module) -> dict[str, Any]:
        arch = describe(model.config)
        config = super()._config(model) | {
            "adapter_layers": self.blocks(arch),
            "target_modules": names_of(arch).path.rpartition(".")[2],
        }
        # What peft does not have is written only where it is used, so that peft reads the rest without a warning.
        unused = {s.field for s in self.entries if s.absent == getattr(self, s.field)}
        return {key: value for key, value in config.items() if key not in unused}

    @classmethod
    def restored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> LlamaAdapter:
        method = super().restored(config, tensors)
        check_length(method.n, tensors, "adaption_prompt", dim=1)
        return method

    def _check_config(self, config: dict[str, Any]) -> None:
        agree(self, config, [s for s in self.entries if s.field != "layers" or self.layers is not None])


def _prompted(model: nn.Module, state: Attachment, path: str, arch: Architecture) -> PromptedAttention:
    layer, names = wrap(model, state, path, PromptedAttention, arch), names_of(arch)
    query = getattr(layer.base_layer, names.query)
    state.hooks.append(query.register_forward_hook(layer.remember))
    if layer.projected:
        output = getattr(layer.base_layer, names.output)
        state.hooks.append(output.register_forward_pre_hook(layer.before_output))
    return layer
