r"""Perplexity with a 95 % interval over texts: texts are drawn again, with replacement (the bootstrap, Efron 1979).

Two models that read the *same* texts are compared by the ratio of their perplexities: what makes a text hard is in both
and falls out, so the interval is narrower than those of the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.evaluation.perplexity_of_texts import perplexity

#: Draws of as many texts as there are.
DRAWS = 2000


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
