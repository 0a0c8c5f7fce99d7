r"""Base class of prompt tuning and P-tuning: virtual tokens among the input vectors.

Where an encoder reads for a decoder, as in T5, they stand before the encoder's text:

    the caller           t t t              attention mask 1 1 1
    the encoder      V V t t t              its mask   1 1 1 1 1
    the decoder      reads all five states, so the mask that it is given has to be the encoder's

What the decoder answers is as long as before, and nothing has to be taken out of it. When text is generated, the
encoder runs once and alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.methods.mechanism.anatomy import encoder_decoder, layers_of
from coursekit.methods.mechanism.attachment import Attachment, add_module
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import AdapterState
from coursekit.methods.soft_prompts.attention import like
from coursekit.methods.soft_prompts.room import check_room
from coursekit.methods.soft_prompts.virtual_tokens import VirtualTokens, body


class EncodedPrompt(VirtualTokens):
    r"""The virtual tokens of an encoder whose states a decoder reads."""

    def __init__(self, model: nn.Module, switch: AdapterState):
        super().__init__(model, switch)
        self.encoder = True  # free slots stand behind the text
        self.read: Tensor | None = None  # the mask that the encoder had, (batch, n + seq)

    def hook(self, model: nn.Module) -> list[Any]:
        return [
            body(model).register_forward_pre_hook(self.enter, with_kwargs=True),
            model.base_model.decoder.register_forward_pre_hook(self.widen, with_kwargs=True),
        ]

    def enter(self, inner: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        _, call = super().enter(inner, args, kwargs)
        self.read = call.get("attention_mask")
        return (), call

    def widen(self, decoder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        r"""Before the decoder: the mask over the encoder's states is the one that the encoder had."""
        states, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")
        if states is None or self.most == 0:
            return args, kwargs
        if self.read is None:
            return args, kwargs | {"encoder_attention_mask": None}
        if len(states) % len(self.read) or states.shape[1] != self.read.shape[1]:
            raise CourseError(
                "these encoder outputs are not of the last text that the encoder read with virtual tokens: call the "
                "model with input_ids"
            )
        # A search with several beams has a row for each of them.
        mask = self.read.repeat_interleave(len(states) // len(self.read), dim=0)
        return args, kwargs | {"encoder_attention_mask": mask}


def holder_for(model: nn.Module) -> type[VirtualTokens]:
    r"""The class that holds the virtual tokens of a model like `model`."""
    return EncodedPrompt if encoder_decoder(model) else VirtualTokens


#: peft's name for the one tensor of a prompt: its first dimension is n.
KEY = "prompt_embeddings"


def check_length(n: int, tensors: dict[str, Tensor], suffix: str = KEY, dim: int = 0) -> None:
    r"""Raise CourseError where a prompt in a checkpoint has another number of virtual tokens than its config says, n.

    Asked before a model makes room for n of them. suffix, dim: the prompts' keys end so, and have n there.
    """
    for key, prompt in tensors.items():
        if key.endswith(suffix) and (prompt.dim() <= dim or prompt.shape[dim] != n):
            raise CourseError(
                f"this checkpoint is damaged: its config says {n} virtual tokens, and {key} has the shape "
                f"{tuple(prompt.shape)}; save it again"
            )


#: Where a model keeps its virtual tokens.
PATH = "soft_prompt"


class SoftPrompt(nn.Module, ABC):
    r"""The n virtual tokens of one adapter; a subclass says what they are made of."""

    n: int

    @abstractmethod
    def vectors(self) -> Float[Tensor, "n d"]:
        r"""The virtual tokens $P$."""


class InputPrompt(Method, ABC):
    r"""A method with a `SoftPrompt` before the text, or in the places of a template."""

    n: int

    def _check(self, model: nn.Module) -> None:
        check_room(self.n, model)

    def touched(self, model: nn.Module) -> set[str]:
        return {"the vectors before the input"}

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        fresh = PATH not in state.added
        holder = add_module(model, state, PATH, holder_for(model)(model, state.switch))
        if fresh:
            state.hooks += holder.hook(model)
        embedding = model.get_input_embeddings()
        holder.prompts[name] = self._prompt(embedding, model.config).to(**like(embedding))
        return list(holder.prompts[name].parameters())

    @abstractmethod
    def _prompt(self, embedding: nn.Module, config: Any) -> SoftPrompt:
        r"""The module that gives the n vectors, at its start."""

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return {KEY: model.get_submodule(PATH).vectors(name)}

    def _config(self, model: nn.Module) -> dict[str, Any]:
        return super()._config(model) | {
            "token_dim": model.get_input_embeddings().weight.shape[1],
            "num_layers": getattr(model.config, "num_hidden_layers", None),
            "num_attention_heads": getattr(model.config, "num_attention_heads", None),
            "num_transformer_submodules": 1,
        }

    @classmethod
    def restored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> InputPrompt:
        method = super().restored(config, tensors)
        check_length(method.n, tensors)
        return method


def d_embed(config: Any) -> int:
    r"""Width of the vectors that a model of `config` reads for its tokens."""
    return next(iter(layers_of(config, ("embedding",)).values())).d_out


def in_vocabulary(field: str, token: int, model: nn.Module) -> None:
    r"""Raise CourseError unless `token` is one of the model's; the error names the `field` that has it."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if not 0 <= token < vocabulary:
        raise CourseError(f"{field} has {token}, and this model's vocabulary has {vocabulary} tokens")
