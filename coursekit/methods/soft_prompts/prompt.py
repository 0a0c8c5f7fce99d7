r"""Prompt tuning (Lester et al. 2021, arXiv:2104.08691): n trained vectors before the embedded text, nothing else.

$$[P; E(x_1), \dots, E(x_T)], \quad P \in \mathbb{R}^{n \times d}$$
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.architecture import describe
from coursekit.errors import CourseError, unknown
from coursekit.methods.mechanism.attachment import Attachment, beside
from coursekit.methods.mechanism.method import Method
from coursekit.methods.soft_prompts.attention import like, room
from coursekit.methods.soft_prompts.virtual_tokens import VirtualTokens

#: Names of the ways to start, here and in peft.
INITS = {"vocabulary": "SAMPLE_VOCAB", "random": "RANDOM", "text": "TEXT"}
PATH = "soft_prompt"


class Vectors(nn.Module):
    r"""A prompt that is its own n vectors."""

    def __init__(self, weight: Float[Tensor, "n d"], trains: bool = True):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=trains)

    @property
    def n(self) -> int:
        r"""Number of virtual tokens."""
        return len(self.weight)

    def forward(self) -> Float[Tensor, "n d"]:
        return self.weight


class InputPrompt(Method, ABC):
    r"""What prompt tuning and P-tuning share: virtual tokens among the input embeddings."""

    n: int

    def _check(self, model: nn.Module) -> None:
        have = room(model.config)  # raises for a family that is not described
        if have is not None and self.n >= have:
            raise CourseError(f"n={self.n} leaves no room for a text: this model has {have} positions")

    def touched(self, model: nn.Module) -> set[str]:
        return {"the vectors before the input"}

    def _insert(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        fresh = PATH not in state.added
        holder = beside(model, state, PATH, VirtualTokens(model, state.switch))
        if fresh:
            state.hooks += holder.hook(model)
        embedding = model.get_input_embeddings()
        holder.prompts[name] = self._prompt(embedding, model.config).to(**like(embedding))
        return list(holder.prompts[name].parameters())

    @abstractmethod
    def _prompt(self, embedding: nn.Module, config: Any) -> nn.Module:
        r"""The module that gives the n vectors, at its start."""

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return {"prompt_embeddings": model.get_submodule(PATH).vectors(name)}

    def _config(self, model: nn.Module) -> dict[str, Any]:
        arch = describe(model.config)
        return interop.common_config(model, self.kind) | {
            "num_virtual_tokens": self.n,
            "token_dim": arch.d_embed,
            "num_layers": arch.n_layers,
            "num_attention_heads": arch.n_heads,
            "num_transformer_submodules": 1,
        }

    def _check_config(self, config: dict[str, Any]) -> None:
        for key, value in self._setting().items():
            if config.get(key, value) != value:
                raise CourseError(
                    f"this checkpoint was trained with {key}={config[key]}, the method here has {value}; "
                    f"{type(self).__name__}.from_checkpoint(folder) makes the method that fits"
                )

    def _setting(self) -> dict[str, Any]:
        r"""The entries of peft's config that a checkpoint must agree with."""
        return {"num_virtual_tokens": self.n}


@dataclass(frozen=True)
class PromptTuning(InputPrompt):
    r"""`n` trained vectors before the input.

    init: "vocabulary" (the vectors of n words drawn from the vocabulary, which Lester et al. found better than
    random), "random" (each number from N(0, 1), as in peft), or "text": the vectors of `init_ids`, the token ids of
    an instruction, for example, repeated or cut to n.

    On an encoder with a classifier the head reads position 0, as in peft: the first virtual token, not [CLS]. The
    loss of a language model includes the first token, which the last virtual token predicts, as in peft. Unlike
    peft's, positions count what the mask counts, so that padding on the left changes nothing.

    Raises CourseError for settings that make no sense and, on attaching, for ids that are not in the vocabulary.
    """

    n: int = 20
    init: str = "vocabulary"
    init_ids: tuple[int, ...] = ()
    kind: ClassVar[str] = "PROMPT_TUNING"

    def __post_init__(self) -> None:
        check_n(self.n)
        object.__setattr__(self, "init_ids", token_ids(self.init_ids))
        if self.init not in tuple(INITS):
            raise unknown("init", self.init, INITS)
        if (self.init == "text") != bool(self.init_ids):
            raise CourseError('init="text" and init_ids=(...), the token ids to start from, go together')

    def count(self, config: Any) -> int:
        r"""$nd$."""
        return counts.prompt(config, self.n)

    def _check(self, model: nn.Module) -> None:
        super()._check(model)
        vocabulary = model.get_input_embeddings().weight.shape[0]
        for token in self.init_ids:
            if not 0 <= token < vocabulary:
                raise CourseError(
                    f"init_ids has {token}, and this model's vocabulary has {vocabulary} tokens"
                )

    def _prompt(self, embedding: nn.Module, config: Any) -> nn.Module:
        size, d = embedding.weight.shape
        if self.init == "random":
            return Vectors(torch.randn(self.n, d))
        if self.init == "text":
            ids = torch.tensor([self.init_ids[i % len(self.init_ids)] for i in range(self.n)])
        else:
            ids = torch.randint(0, size, (self.n,))
        with torch.no_grad():
            return Vectors(embedding(ids.to(embedding.weight.device)).clone())

    def _config(self, model: nn.Module) -> dict[str, Any]:
        # peft would look for the text of TEXT, which only the tokenizer knows. A trained prompt needs no start.
        start = "RANDOM" if self.init == "text" else INITS[self.init]
        return super()._config(model) | {"prompt_tuning_init": start}

    @classmethod
    def from_checkpoint(cls, folder: Any) -> PromptTuning:
        r"""The method with the hyperparameters of a checkpoint, ours or peft's."""
        config, _ = interop.read(folder)
        interop.same_method(cls.kind, config)
        own = {peft: ours for ours, peft in INITS.items() if ours != "text"}
        return cls(n=config["num_virtual_tokens"], init=own.get(config.get("prompt_tuning_init"), "random"))


def token_ids(given: Any) -> tuple[int, ...]:
    r"""`given` as plain numbers. Raises CourseError for a text, or a batch, where the ids of one text belong."""
    try:
        if isinstance(given, str):
            raise TypeError
        return tuple(int(i) for i in given)
    except (TypeError, ValueError, RuntimeError):
        raise CourseError(
            "init_ids takes the token ids of one text, such as tokenizer('Is this good?')['input_ids'], "
            f"and this {type(given).__name__} is something else"
        ) from None


def check_n(n: Any) -> None:
    r"""Raise CourseError unless `n` is a number of virtual tokens."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise CourseError(
            f"n={n!r} is no number of virtual tokens: take a whole number from 1 up, such as 20"
        )
