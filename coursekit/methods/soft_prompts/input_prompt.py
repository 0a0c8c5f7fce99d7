r"""Base class of prompt tuning and P-tuning: virtual tokens among the input vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.methods.mechanism.anatomy import layers_of
from coursekit.methods.mechanism.attachment import Attachment, add_module
from coursekit.methods.mechanism.method import Method
from coursekit.methods.soft_prompts.attention import like
from coursekit.methods.soft_prompts.encoded_prompt import holder_for
from coursekit.methods.soft_prompts.room import check_room

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
