r"""Perplexity of texts, in windows where they are long, and its 95 % interval over texts.

For the interval texts are drawn again, with replacement (the bootstrap, Efron 1979). Two models that read the *same*
texts are compared by the ratio of their perplexities: what makes a text hard is in both and falls out, so the interval
is narrower than those of the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError, whole
from coursekit.evaluation.running import (
    device_of,
    equal_lengths,
    evaluating,
    progress_bar,
    text_list,
    token_ids,
)
from coursekit.evaluation.scores import Perplexity
from coursekit.labels import IGNORED

#: Draws of as many texts as there are.
DRAWS = 2000


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
    max_length = whole("max_length", max_length, least=2, such_as=256)
    stride = max(1, max_length // 2) if stride is None else whole("stride", stride, least=1)
    if stride >= max_length:
        raise CourseError(f"max_length={max_length}, stride={stride}: needed are 1 ≤ stride < max_length")
    texts = text_list("texts", texts)[: None if limit is None else whole("limit", limit, least=1)]
    windows: list[tuple[list[int], int]] = []
    for ids in token_ids(model, tokenizer, "texts", texts):
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


def nats_by_text(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> Float[Tensor, "texts 2"]:
    r"""Of each text its negative log-likelihood in nats, and how many tokens that is of.

    Raises CourseError for a text of less than two tokens.
    """
    found = [perplexity(model, tokenizer, [text], progress=False) for text in texts]
    return torch.tensor([[math.log(p.value) * p.tokens, p.tokens] for p in found], dtype=torch.float64)


def perplexity_interval(nats: Float[Tensor, "texts 2"]) -> tuple[float, float, float]:
    r"""Perplexity of all texts together, and the ends of its 95 % interval. nats: see `nats_by_text`."""
    n = len(nats)
    if not n:
        raise CourseError("there are no texts to draw from")
    drawn = torch.randint(n, (DRAWS, n), generator=torch.Generator().manual_seed(0))
    of_draws = (nats[drawn, 0].sum(1) / nats[drawn, 1].sum(1)).exp()
    low, high = of_draws.quantile(torch.tensor([0.025, 0.975], dtype=of_draws.dtype)).tolist()
    return (nats[:, 0].sum() / nats[:, 1].sum()).exp().item(), low, high


def ratio_interval(
    nats: Float[Tensor, "texts 2"], reference: Float[Tensor, "texts 2"]
) -> tuple[float, float, float]:
    r"""How many times the perplexity `reference` that of `nats` is, on the same texts, with its 95 % interval."""
    if not torch.equal(nats[:, 1], reference[:, 1]):
        raise CourseError("the two read different texts: a ratio text by text needs the same ones")
    return perplexity_interval(torch.stack([nats[:, 0] - reference[:, 0], nats[:, 1]], 1))
