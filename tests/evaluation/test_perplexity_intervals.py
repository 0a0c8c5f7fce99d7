r"""Perplexity with an interval over texts, and the ratio of two."""

import math

import pytest
import tiny
import tiny_text
import torch

from coursekit.errors import CourseError
from coursekit.evaluation.perplexity_of_texts import nats_by_text, perplexity_interval, ratio_interval

TEXTS = ["the plot is good", "a slow and long story of the actor", "not fine , not bad", "bright scene of the plot"]


def test_the_value_is_the_perplexity_of_all_texts():
    model, words = tiny.decoder(), tiny_text.tokenizer()
    nats = nats_by_text(model, words, TEXTS)
    value, low, high = perplexity_interval(nats)
    assert math.log(value) == pytest.approx((nats[:, 0].sum() / nats[:, 1].sum()).item())
    assert low < value < high


def test_a_ratio_on_the_same_texts_has_the_narrower_interval():
    tokens = torch.randint(5, 40, (200,), generator=torch.Generator().manual_seed(1)).double()
    hard = torch.rand(200, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 4 + 1
    one, other = torch.stack([hard * tokens, tokens], 1), torch.stack([(hard + 0.1) * tokens, tokens], 1)
    assert ratio_interval(one, one) == (1, 1, 1)
    assert ratio_interval(other, one) == pytest.approx([math.exp(0.1)] * 3)
    value, low, high = perplexity_interval(one)
    assert low < 0.95 * value and high > 1.05 * value
    # A mean of 200 values with this spread is off by less than 1.96 standard errors 95 times in 100.
    nats = torch.stack([hard, torch.ones(200, dtype=torch.float64)], 1)
    value, low, high = perplexity_interval(nats)
    margin = 1.96 * hard.std().item() / 200**0.5
    assert math.log(high / low) / 2 == pytest.approx(margin, rel=0.1)


def test_what_cannot_be_compared_is_explained():
    nats = torch.tensor([[3.0, 2.0], [4.0, 3.0]], dtype=torch.float64)
    with pytest.raises(CourseError, match="different texts"):
        ratio_interval(nats, nats.flip(0))
    with pytest.raises(CourseError, match="no texts"):
        perplexity_interval(nats[:0])
