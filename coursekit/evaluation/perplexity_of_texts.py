r"""Perplexity of texts, each read whole, and its 95 % interval over texts.

For the interval texts are drawn again, with replacement (the bootstrap, Efron 1979). Two models that read the *same*
texts are compared by the ratio of their perplexities: what makes a text hard is in both and falls out, so the interval
is narrower than those of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError, whole
from coursekit.evaluation.running import device_of, equal_lengths, evaluating, progress_bar, token_ids
from coursekit.evaluation.scores import Perplexity

#: Draws of as many texts as there are.
DRAWS = 2000


def perplexity(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], *, batch_size: int = 16, progress: bool = True
) -> Perplexity:
    r"""Perplexity of independent texts. Every token counts the same, so long texts weigh more than short ones.

    The first token of a text has nothing before it and is not scored. Raises CourseError where no text has two tokens,
    and for one that the model cannot read whole.
    """
    nats, tokens = _nats(model, tokenizer, texts, batch_size, progress).sum(0)
    if not tokens:
        raise CourseError("no text has two tokens or more: there is nothing to predict")
    return Perplexity((nats / tokens).exp().item(), int(tokens), len(texts))


def nats_by_text(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> Float[Tensor, "texts 2"]:
    r"""Of each text its negative log-likelihood in nats, and how many tokens that is of.

    Raises CourseError for a text of less than two tokens, and for one that the model cannot read whole.
    """
    nats = _nats(model, tokenizer, texts, batch_size=1)
    if not nats[:, 1].all():
        raise CourseError("a text has less than two tokens: there is nothing to predict")
    return nats


def _nats(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], batch_size: int = 16, progress: bool = False
) -> Float[Tensor, "texts 2"]:
    rows = token_ids(model, tokenizer, "texts", texts)
    longest = max(map(len, rows), default=0)
    room = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if room and 0 < room < longest:  # some configs have -1 for "no limit"
        raise CourseError(f"a text has {longest} tokens, and {type(model).__name__} reads at most {room}: cut it")
    found = torch.zeros(len(rows), 2, dtype=torch.float64)
    with evaluating(model), progress_bar(len(rows), "perplexity", progress) as bar:
        for group in equal_lengths(rows, whole("batch_size", batch_size, least=1)):
            ids = torch.tensor([rows[i] for i in group], dtype=torch.long, device=device_of(model))
            if ids.shape[1] > 1:
                # Counted from the end: a model may put tokens of its own (soft prompts) first.
                logits = model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] : -1].float()
                each = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
                found[group, 0], found[group, 1] = each.sum(1).double().cpu(), float(each.shape[1])
            bar.update(len(group))
    return found


def perplexity_interval(nats: Float[Tensor, "texts 2"]) -> tuple[float, float, float]:
    r"""Perplexity of all texts together, and the ends of its 95 % interval. nats: see `nats_by_text`."""
    n = len(nats)
    if not n:
        raise CourseError("there are no texts to draw from")
    drawn = torch.randint(n, (DRAWS, n), generator=torch.Generator().manual_seed(0))
    of_draws = (nats[drawn, 0].sum(1) / nats[drawn, 1].sum(1)).exp()
    low, high = of_draws.quantile(torch.tensor([0.025, 0.975], dtype=of_draws.dtype)).tolist()
    return (nats[:, 0].sum() / nats[:, 1].sum()).exp().item(), low, high


def ratio_interval(nats: Float[Tensor, "texts 2"], reference: Float[Tensor, "texts 2"]) -> tuple[float, float, float]:
    r"""How many times the perplexity `reference` that of `nats` is, on the same texts, with its 95 % interval."""
    if not torch.equal(nats[:, 1], reference[:, 1]):
        raise CourseError("the two read different texts: a ratio text by text needs the same ones")
    return perplexity_interval(torch.stack([nats[:, 0] - reference[:, 0], nats[:, 1]], 1))
