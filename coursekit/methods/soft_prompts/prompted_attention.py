r"""The attention of one block, with gated attention over the prompts of an adapter added to its output.

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
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from coursekit.architecture import Architecture
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper
from coursekit.methods.soft_prompts.attention import names_of, queries


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
