r"""Prompt tuning (Lester et al. 2021, arXiv:2104.08691): n trained vectors before the embedded text, nothing else.

$$[P; E(x_1), \dots, E(x_T)], \quad P \in \mathbb{R}^{n \times d}$$
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError, flag, keep, one_of, whole
from coursekit.methods.mechanism.anatomy import reads_both_ways
from coursekit.methods.mechanism.attachment import Attachment
from coursekit.methods.mechanism.checkpoint import Setting, shown
from coursekit.methods.soft_prompts.input_prompt import PATH, InputPrompt, SoftPrompt, d_embed, in_vocabulary

#: Names of the ways to start, here and in peft.
INITS = {"vocabulary": "SAMPLE_VOCAB", "random": "RANDOM", "text": "TEXT"}


class Vectors(SoftPrompt):
    r"""A prompt that is its own n vectors."""

    def __init__(self, weight: Float[Tensor, "n d"], trains: bool = True):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=trains)

    @property
    def n(self) -> int:  # type: ignore[override]
        return len(self.weight)

    def vectors(self) -> Float[Tensor, "n d"]:
        return self.weight

    def forward(self, x: Float[Tensor, "batch seq d"]) -> Float[Tensor, "batch n_plus_seq d"]:
        r"""$[P; E(x)]$, where x are the word vectors of a batch."""
        P = self.weight.expand(len(x), -1, -1)  # (n, d) -> (batch, n, d)
        return torch.cat((P, x), dim=1)  # (batch, n + seq, d)


@dataclass(frozen=True)
class PromptTuning(InputPrompt):
    r"""`n` trained vectors before the input.

    init: "vocabulary" (the vectors of n words drawn from the vocabulary, which Lester et al. found better than
    random), "random" (each entry from N(0, 1), as in peft), or "text": the vectors of `init_ids`, the token ids of
    an instruction, for example, repeated or cut to n.

    On an encoder with a classifier the head reads position 0, as in peft: the first virtual token, not [CLS]. The
    loss of a language model includes the first token, which the last virtual token predicts, as in peft. Unlike
    peft's, positions count what the mask counts, so that padding on the left changes nothing; but a sliding window
    (Gemma's) counts padding, too, and may end between a padded row's text and its virtual tokens.

    On an encoder-decoder, such as T5, they stand before the encoder's text, as in the paper (peft's
    `num_transformer_submodules=1`), and the decoder sees them.

    embedded: the vectors go through the embedding layer as words do, which adds positions and norms the sum, as in
    peft. False puts them behind it, and the text keeps its positions: as in `adapters`, in encoders alone.

    Raises CourseError for settings that make no sense and, on attaching, for ids that are not in the vocabulary and
    for embedded=False on a decoder.
    """

    n: int = 20
    init: str = "vocabulary"
    init_ids: tuple[int, ...] = ()
    embedded: bool = True
    kind: ClassVar[str] = "PROMPT_TUNING"
    entries = (
        Setting("n", "num_virtual_tokens"),
        # peft would look for the text of TEXT, which only the tokenizer knows. A trained prompt needs no start.
        Setting(
            "init", "prompt_tuning_init", absent="RANDOM", binding=False,
            read=lambda peft: {"SAMPLE_VOCAB": "vocabulary"}.get(peft, "random"),
            write=lambda init: "RANDOM" if init == "text" else INITS[init],
        ),
        Setting("embedded", absent=True, rare=True),  # peft knows no other
    )  # fmt: skip

    def __post_init__(self) -> None:
        keep(self, n=whole("n", self.n, least=1, such_as=20))
        object.__setattr__(self, "init_ids", token_ids(self.init_ids))
        one_of("init", self.init, INITS)
        flag("embedded", self.embedded)
        if (self.init == "text") != bool(self.init_ids):
            raise CourseError('init="text" and init_ids=(...), the token ids to start from, go together')

    def __repr__(self) -> str:
        return shown(self, (*self.entries[:2], Setting("init_ids"), *self.entries[2:]))

    def count(self, config: Any) -> int:
        r"""$nd$."""
        return self.n * d_embed(config)

    def _check(self, model: nn.Module) -> None:
        if self.embedded:
            super()._check(model)
        elif (
            not reads_both_ways(model)
            or getattr(model.config, "is_decoder", False)
            or not hasattr(model.base_model, "embeddings")
        ):
            raise CourseError("embedded=False is for encoders such as BERT: take embedded=True")
        for token in self.init_ids:
            in_vocabulary("init_ids", token, model)

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        parameters = super()._insert(model, state, name, found)
        if not self.embedded:
            model.get_submodule(PATH).behind.add(name)
        return parameters

    def _prompt(self, embedding: nn.Module, config: Any) -> Vectors:
        size, d = embedding.weight.shape
        if self.init == "random":
            return Vectors(torch.randn(self.n, d))
        if self.init == "text":
            ids = torch.tensor([self.init_ids[i % len(self.init_ids)] for i in range(self.n)])
        else:
            ids = torch.randint(0, size, (self.n,))
        with torch.no_grad():
            return Vectors(embedding(ids.to(embedding.weight.device)).clone())


def token_ids(given: Any) -> tuple[int, ...]:
    r"""`given` as a tuple of ints. Raises CourseError for a text, or a batch, where the ids of one text belong."""
    try:
        if isinstance(given, str):
            raise TypeError
        return tuple(int(i) for i in given)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise CourseError(
            "init_ids must be the token ids of one text, such as tokenizer('Is this good?')['input_ids']; got "
            f"a {type(given).__name__}."
        ) from None
