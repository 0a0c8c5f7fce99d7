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

from coursekit.errors import CourseError
from coursekit.evaluation.running import device_of, evaluating, token_ids

#: Draws of as many texts as there are.
DRAWS = 2000


def nats_by_text(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> Float[Tensor, "texts 2"]:
    r"""Of each text its negative log-likelihood in nats, and how many tokens that is of: all but the first, which has
    nothing before it.

    Raises CourseError for a text of less than two tokens, and for one that the model cannot read whole.
    """
    rows = token_ids(model, tokenizer, "texts", texts)
    if any(len(row) < 2 for row in rows):
        raise CourseError("a text has less than two tokens: there is nothing to predict")
    longest = max(map(len, rows), default=0)
    room = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if room and 0 < room < longest:  # some configs have -1 for "no limit"
        raise CourseError(f"a text has {longest} tokens, and {type(model).__name__} reads at most {room}: cut it")
    found = torch.zeros(len(rows), 2, dtype=torch.float64)
    with evaluating(model):
        for i, row in enumerate(rows):
            ids = torch.tensor([row], device=device_of(model))
            # Counted from the end: a model may put tokens of its own (soft prompts) first.
            logits = model(input_ids=ids, use_cache=False).logits[0, -len(row) : -1].float()
            found[i, 0], found[i, 1] = F.cross_entropy(logits, ids[0, 1:], reduction="sum").double(), len(row) - 1
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
