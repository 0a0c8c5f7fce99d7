r"""Perplexity of texts, in windows where they are long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from coursekit.errors import CourseError, whole
from coursekit.evaluation.running import device_of, equal_lengths, evaluating, progress_bar
from coursekit.evaluation.scores import Perplexity
from coursekit.labels import IGNORED


def perplexity(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_length: int = 256,
    stride: int | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> Perplexity:
    r"""Perplexity of independent texts. Every token counts the same, so long texts weigh more than short ones.

    The first token of a text has nothing before it and is not scored. A text of more than `max_length` tokens is read
    in windows that advance by `stride` (half of `max_length` by default); each token is scored once, in the first
    window that holds it, so all but the first window's tokens have at least max_length − stride tokens of context.

    Raises CourseError where no text has two tokens, and for a stride that is not from 1 to below `max_length`.
    """
    whole("max_length", max_length, least=2, such_as=256)
    stride = max(1, max_length // 2) if stride is None else whole("stride", stride, least=1)
    if stride >= max_length:
        raise CourseError(f"max_length={max_length}, stride={stride}: needed are 1 ≤ stride < max_length")
    texts = list(texts)[: None if limit is None else whole("limit", limit, least=1)]
    windows: list[tuple[list[int], int]] = []
    for ids in tokenizer(texts)["input_ids"] if texts else []:
        windows += windows_of(ids, max_length, stride)
    total, tokens = 0.0, 0
    device = device_of(model)
    with evaluating(model), progress_bar(len(windows), "perplexity", progress) as bar:
        for group in equal_lengths([ids for ids, _ in windows], batch_size):
            ids = torch.tensor([windows[i][0] for i in group], device=device)
            # Counted from the end: a model may put tokens of its own (soft prompts) first.
            logits = model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] : -1].float()
            targets = ids[:, 1:].clone()
            for row, i in enumerate(group):
                # Position j of the targets is token j + 1 of the window.
                targets[row, : windows[i][1] - 1] = IGNORED
            total += F.cross_entropy(logits.transpose(1, 2), targets, reduction="sum").double().item()
            tokens += int((targets != IGNORED).sum())
            bar.update(len(group))
    if not tokens:
        raise CourseError("no text has two tokens or more: there is nothing to predict")
    return Perplexity(float(torch.tensor(total / tokens, dtype=torch.float64).exp()), tokens, len(texts))


def windows_of(ids: list[int], max_length: int, stride: int) -> list[tuple[list[int], int]]:
    r"""Windows over one text, each with the position of the first token in it that is to be scored."""
    if len(ids) < 2:
        return []
    windows, scored = [], 1
    for start in range(0, len(ids), stride):
        window = ids[start : start + max_length]
        windows.append((window, scored - start))
        scored = start + len(window)
        if scored == len(ids):
            break
    return windows
