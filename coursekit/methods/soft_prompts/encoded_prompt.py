r"""Virtual tokens before the text that an encoder reads for a decoder, as in T5.

    the caller           t t t              attention mask 1 1 1
    the encoder      V V t t t              its mask   1 1 1 1 1
    the decoder      reads all five states, so the mask that it is given has to be the encoder's

What the decoder answers is as long as before, and nothing has to be taken out of it. When text is generated, the
encoder runs once and alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.methods.mechanism.anatomy import encoder_decoder
from coursekit.methods.mechanism.modules import AdapterState
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
