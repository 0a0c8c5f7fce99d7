r"""Text that a model writes, and whether it has the form that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from coursekit.errors import whole
from coursekit.evaluation.running import device_of, evaluating, left_padded, progress_bar, token_ids
from coursekit.tasks.prepared import pad_id


def generate(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int = 32, batch_size: int = 16,
    add_special_tokens: bool = True, progress: bool = True, **settings: Any,
) -> list[str]:  # fmt: skip
    r"""What the model writes after each prompt, greedily unless `settings` (for `model.generate`) say otherwise.

    Only the new text is returned, up to the end-of-text token. Prompts are padded on the left, so that all rows of a
    batch go on writing at the same place. add_special_tokens=False: for prompts from a chat template.
    """
    max_new_tokens = whole("max_new_tokens", max_new_tokens, least=1, such_as=32)
    batch_size = whole("batch_size", batch_size, least=1)
    settings = {"do_sample": False} | settings
    ids = token_ids(model, tokenizer, "prompts", prompts, add_special_tokens=add_special_tokens)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    device, pad = device_of(model), pad_id(tokenizer)
    texts = [""] * len(ids)
    with evaluating(model), progress_bar(len(ids), "generate", progress) as bar:
        for start in range(0, len(order), batch_size):
            group = order[start : start + batch_size]
            batch, mask = (t.to(device) for t in left_padded([ids[i] for i in group], pad))
            written = model.generate(
                input_ids=batch, attention_mask=mask, max_new_tokens=max_new_tokens, pad_token_id=pad, **settings
            )
            for i, text in zip(
                group, tokenizer.batch_decode(written[:, batch.shape[1] :], skip_special_tokens=True), strict=True
            ):
                texts[i] = text
            bar.update(len(group))
    return texts
