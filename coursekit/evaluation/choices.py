r"""The logits of a few choices after a prompt, which is how a decoder classifies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.evaluation.prefix_cache import PrefixCache
from coursekit.evaluation.running import device_of, evaluating, progress_bar, similar_lengths, text_list, token_ids


def score_choices(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    choices: Sequence[str],
    batch_size: int = 64,
    *,
    cache: bool = True,
    progress: bool = False,
) -> Float[Tensor, "prompts choices"]:
    r"""The logit of each choice's first token after each prompt, on the CPU.

    A choice usually begins with a space. Raises CourseError for two choices that begin with the same token.
    """
    choices, ids = text_list("choices", choices), token_ids(model, tokenizer, "prompts", prompts)
    first = [tokenizer(choice, add_special_tokens=False)["input_ids"][:1] for choice in choices]
    if len({tuple(token) for token in first}) < len(choices) or [] in first:
        raise CourseError(f"the choices {', '.join(map(repr, choices))} do not begin with a token each of their own")
    return next_token_logits(model, ids, [token[0] for token in first], batch_size, cache, progress)


def next_token_logits(
    model: nn.Module, prompts: list[list[int]], choices: list[int], batch_size: int, cache: bool, progress: bool
) -> Float[Tensor, "prompts choices"]:
    r"""Logits of the `choices` after each prompt. Only the ends of the prompts go through the output layer.

    A shorter prompt of a batch is filled up on the right, which a decoder does not see from the prompt's last token.
    """
    device = device_of(model)
    logits = torch.empty(len(prompts), len(choices))
    with evaluating(model), progress_bar(len(prompts), "score", progress) as bar:
        prefix = PrefixCache(model, prompts) if cache and len(prompts) > 1 else None
        skip = prefix.length if prefix else 0
        for group in similar_lengths(prompts, batch_size):
            rest = [prompts[i][skip:] for i in group]
            missing = [len(rest[0]) - len(row) for row in rest]
            filled = torch.tensor([row + [0] * n for row, n in zip(rest, missing, strict=True)], device=device)
            past = {"cache": prefix.expanded(len(group)), "use_cache": True} if skip else {"use_cache": False}
            ends = model(input_ids=filled, logits_to_keep=max(missing) + 1, **past).logits
            last = ends[range(len(group)), [-1 - n for n in missing]]  # (rows, vocabulary)
            logits[group] = last[:, choices].float().cpu()
            bar.update(len(group))
    return logits
