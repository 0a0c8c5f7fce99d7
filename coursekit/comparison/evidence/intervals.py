r"""How sure a difference between two arms is, given that both the test sentences and the seeds are a sample.

The bootstrap (Efron 1979) draws sentences and seeds again and again with replacement. Both arms answered the same
sentences, so the same draw of sentences serves both: that is what makes the difference paired, and its interval
narrower than those of the two accuracies. Seeds are drawn for each arm by itself: seed 0 of one method and seed 0 of
another share the order of the data but not what training makes of it. Two states of one trained model, such as with
adapters and without some of them, share all of it, and so the draw of seeds. So do two arms of which the seed also
draws the few sentences that they train on: which sentences these are moves both.

Drawing k seeds from k with replacement gives a variance that is too small, by (k - 1)/k: what a draw of seeds moves is
widened by sqrt(k/(k - 1)) (Davison and Hinkley 1997, section 3.2, on resampling groups).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

#: Draws: enough for the second digit of a 95 % limit.
DRAWS = 4000
#: Digits of an interval's ends, of an accuracy: other draws move the third one by some units, so an end that rounds to
#: 0 tells nothing apart.
DIGITS = 3

Answers = Sequence[Sequence[bool]]


@dataclass(frozen=True)
class Interval:
    r"""A value with its 95 % interval, whose ends are rounded to as many digits as the draws give."""

    value: float
    low: float
    high: float

    @property
    def tells(self) -> bool:
        r"""Whether 0 lies outside: a difference that another sample would most likely show as well."""
        return self.low > 0 or self.high < 0

    @property
    def margin(self) -> float:
        r"""Half the interval's width, 1.96 standard errors. A true difference of this size is told apart from 0 only
        half of the time; to be told apart four times in five it must be 1.4 times as large.
        """
        return (self.high - self.low) / 2

    def __repr__(self) -> str:
        return f"{self.value:+z.{DIGITS}f} ({self.low:+.{DIGITS}f} to {self.high:+.{DIGITS}f})"


def accuracy(correct: Answers, draws: int = DRAWS) -> Interval:
    r"""Mean accuracy of one arm. correct: (seeds, sentences)."""
    return _combined(((1, correct),), draws)


def difference(
    one: Answers, other: Answers, draws: int = DRAWS, *, by_seed: bool = False, share: float = 1
) -> Interval:
    r"""Accuracy of `one` minus `share` times that of `other`, paired by sentence. Each is (seeds, sentences), sentences
    the same.

    by_seed: a seed means the same for both, the same trained model or the same training sentences, and so they are
    paired by seed as well.
    """
    if by_seed:
        return _combined(((1, _array(one) - share * _array(other)),), draws)
    return _combined(((1, one), (-share, other)), draws)


def change(
    before: tuple[Answers, Answers],
    after: tuple[Answers, Answers],
    draws: int = DRAWS,
    *,
    by_seed: bool = False,
) -> Interval:
    r"""The difference of the pair `after` minus that of the pair `before`; all four answered the same sentences.

    by_seed: within each of the pairs, as in `difference`.
    """
    if by_seed:
        late, early = (_array(one) - _array(other) for one, other in (after, before))
        return _combined(((1, late), (-1, early)), draws)
    return _combined(((1, after[0]), (-1, after[1]), (-1, before[0]), (1, before[1])), draws)


def _combined(terms: Sequence[tuple[float, Answers | npt.NDArray[np.float64]]], draws: int) -> Interval:
    r"""A sum of accuracies, each with its weight; one draw of sentences serves all of them."""
    weighed = [(weight, _array(correct)) for weight, correct in terms]
    sentences, seeds = _draws(weighed[0][1].shape[1], tuple(len(a) for _, a in weighed), draws)
    drawn = sum(weight * _means(a, own, sentences) for (weight, a), own in zip(weighed, seeds, strict=True))
    return _interval(float(sum(weight * a.mean() for weight, a in weighed)), np.asarray(drawn))


def _array(correct: Answers | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(correct, dtype=float)  # (seeds, sentences)


@lru_cache(maxsize=2)
def _draws(
    n: int, seeds: tuple[int, ...], draws: int
) -> tuple[npt.NDArray[np.float32], tuple[npt.NDArray[np.int64], ...]]:
    r"""How often each of `n` sentences was drawn, (draws, n), and which seeds of each arm, (draws, seeds). The same for
    all arms, so that the many differences of a table are drawn for once.
    """
    random = np.random.default_rng(0)
    sentences = np.empty((draws, n), dtype=np.float32)
    chosen = tuple(np.empty((draws, k), dtype=np.int64) for k in seeds)
    for i in range(draws):
        sentences[i] = np.bincount(random.integers(n, size=n), minlength=n)
        for own, k in zip(chosen, seeds, strict=True):
            own[i] = random.integers(k, size=k)
    return sentences, chosen


def _means(
    answers: npt.NDArray[np.float64], seeds: npt.NDArray[np.int64], sentences: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    r"""Mean accuracy in each draw: (draws,). Whole numbers up to here, so that no rounding depends on the order."""
    k, n = answers.shape
    right = (sentences @ answers.T.astype(np.float32)).astype(
        np.float64
    )  # (draws, n)(n, k), exact below 2^24
    centre = right.mean(axis=1)
    by_seeds = np.take_along_axis(right, seeds, axis=1).mean(axis=1) - centre  # 0 where there is one seed
    return (centre + by_seeds * np.sqrt(k / max(k - 1, 1))) / n


def _interval(value: float, drawn: npt.NDArray[np.float64]) -> Interval:
    low, high = (round(float(end), DIGITS) + 0.0 for end in np.quantile(drawn, (0.025, 0.975)))  # 0, not -0
    return Interval(value, low, high)
