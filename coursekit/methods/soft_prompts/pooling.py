r"""Lets the head of an encoder with virtual tokens read the text's first token, as without them.

the body's states   v v v [CLS] t t t     v: virtual tokens
peft's head reads   ^                     the first of them (see `PromptTuning`)
here it reads             ^               so rows with a prompt, a prefix or nothing at all compare
"""

from __future__ import annotations

from typing import Any

from torch import nn

from coursekit.methods.mechanism.attachment import attachment_of
from coursekit.methods.soft_prompts.input_prompt import PATH
from coursekit.methods.soft_prompts.virtual_tokens import body


def pool_text(model: nn.Module) -> nn.Module:
    r"""Let the head of `model`, to which a method is attached, read the text's first token and no virtual one.

    Until the method is detached. A model without virtual tokens, or whose head is no classifier, stays as it is.
    """
    state = attachment_of(model)
    holder: Any = model.get_submodule(PATH) if PATH in state.added else None
    if holder is None or not holder.head_reads_first:
        return model
    holder.head_reads_first = False  # the states that leave the body are the text's

    def of_the_text(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if holder.counts is None else (holder.without(args[0]), *args[1:])

    # BERT's is in the body, and comes before its states leave it.
    pooler = getattr(body(model), "pooler", None)
    if pooler is not None:
        state.hooks.append(pooler.register_forward_pre_hook(of_the_text))
    return model
