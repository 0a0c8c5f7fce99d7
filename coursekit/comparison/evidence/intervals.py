r"""How sure a difference between two arms is, given that both the test sentences and the seeds are a sample.

The bootstrap (Efron 1979) draws sentences and seeds again and again with replacement. Both arms answered the same
sentences, so the same draw of sentences serves both: that is what makes the difference paired, and its interval
narrower than those of the two accuracies. Seeds are drawn for each arm by itself: seed 0 of one method and seed 0 of
another share the order of the data but not what training makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Draws: enough for the second digit of a 95 % limit.
DRAWS = 4000

Answers = Sequence[Sequence[bool]]


@dataclass(frozen=True)
class Interval:
    r"""A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def tells(self) -> bool:
        r"""Whether 0 lies outside: a difference that another sample would most likely show as well."""
        return self.low > 0 or self.high < 0

    @property
    def margin(self) -> float:
        r"""The largest difference that would most likely not have been seen: half the interval's width."""
        return (self.high - self.low) / 2

    def __repr__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def accuracy(correct: Answers, draws: int = DRAWS) -> Interval:
    r"""Mean accuracy of one arm. correct: (seeds, sentences)."""
    answers, random = _array(correct), np.random.default_rng(0)
    drawn = [_mean_of_a_draw(answers, random, _sentences(answers, random)) for _ in range(draws)]
    return _interval(float(answers.mean()), drawn)


def difference(one: Answers, other: Answers, draws: int = DRAWS) -> Interval:
    r"""Accuracy of `one` minus that of `other`, paired by sentence. Each is (seeds, sentences), sentences the same."""
    return _combined(((1, one), (-1, other)), draws)


def change(before: tuple[Answers, Answers], after: tuple[Answers, Answers], draws: int = DRAWS) -> Interval:
    r"""The difference of the pair `after` minus that of the pair `before`; all four answered the same sentences."""
    return _combined(((1, after[0]), (-1, after[1]), (-1, before[0]), (1, before[1])), draws)


def _combined(terms: Sequence[tuple[int, Answers]], draws: int) -> Interval:
    r"""A sum of accuracies, each with its sign; one draw of sentences serves all of them."""
    signed, random = [(sign, _array(correct)) for sign, correct in terms], np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        sentences = _sentences(signed[0][1], random)
        drawn.append(sum(sign * _mean_of_a_draw(a, random, sentences) for sign, a in signed))
    return _interval(float(sum(sign * a.mean() for sign, a in signed)), drawn)


def _array(correct: Answers) -> npt.NDArray[np.float64]:
    return np.asarray(correct, dtype=float)  # (seeds, sentences)


def _sentences(answers: npt.NDArray[np.float64], random: np.random.Generator) -> npt.NDArray[np.int64]:
    n = answers.shape[1]
    return np.bincount(random.integers(n, size=n), minlength=n)  # how often each sentence was drawn


def _mean_of_a_draw(
    answers: npt.NDArray[np.float64], random: np.random.Generator, sentences: npt.NDArray[np.int64]
) -> float:
    seeds, n = answers.shape
    return float((answers[random.integers(seeds, size=seeds)] @ sentences).mean() / n)


def _interval(value: float, drawn: Sequence[float]) -> Interval:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(value, float(low), float(high))
