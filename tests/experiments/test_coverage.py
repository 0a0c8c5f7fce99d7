r"""Simulated experiments with a known truth: how often the 95 % interval of a difference holds it.

The table in the head of coursekit/experiments/intervals.py::

    python tests/experiments/test_coverage.py
"""

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
import pytest

from coursekit.experiments import intervals

SENTENCES = 2009
#: Standard deviations, on the scale on which an answer is right above 0: of a sentence, of how much of it is one arm's
#: own, of a run's answer to one sentence. As in methods.csv: accuracy 0.8, of one arm's runs 7 % of the answers differ.
SENTENCE, OWN, RUN = 1.2, 0.35, 0.4
#: Of a seed: accuracy scatters by none, 0.006, 0.012 and 0.04, as the steadiest and the wildest arms of methods.csv do.
SEED = (0.0, 0.03, 0.06, 0.2)


def experiments(
    seeds: int, scatter: float, times: int, by_seed: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    r"""Answers of two arms, seeds × sentences each, and the true difference.

    by_seed: two states of one trained model each seed, which share its scatter; half as much again is a state's own.
    """
    random = np.random.default_rng([seeds, round(1000 * scatter)])
    total = math.sqrt(SENTENCE**2 + OWN**2 + (1.25 if by_seed else 1) * scatter**2 + RUN**2)
    true = [NormalDist().cdf(mean / total) for mean in (1.1, 1.05)]
    for _ in range(times):
        shared, own = SENTENCE * random.standard_normal(SENTENCES), scatter
        if by_seed:
            shared, own = shared + scatter * random.standard_normal((seeds, 1)), scatter / 2
        one, other = (
            mean + shared + OWN * random.standard_normal(SENTENCES) + own * random.standard_normal((seeds, 1))
            + RUN * random.standard_normal((seeds, SENTENCES)) > 0
            for mean in (1.1, 1.05)
        )  # fmt: skip
        yield one, other, true[0] - true[1]


def coverage(seeds: int, scatter: float, times: int, by_seed: bool = False) -> float:
    r"""How often the interval of the difference holds the truth."""
    hits = 0
    for one, other, true in experiments(seeds, scatter, times, by_seed):
        found = intervals.difference(one, other, by_seed=by_seed)
        hits += found.low <= true <= found.high
    return hits / times


@pytest.mark.parametrize("by_seed", [False, True], ids=["seeds of each arm", "by seed"])
@pytest.mark.parametrize("seeds", [3, 5])
def test_coverage_is_95_per_cent_within_one(seeds: int, by_seed: bool):
    found = [coverage(seeds, scatter, 4000, by_seed) for scatter in SEED]
    # 16,000 draws: a standard error of 0.0017.
    assert 0.94 <= np.mean(found) <= 0.96, found
    lowest, highest = (0.92, 0.98) if by_seed else (0.93, 0.97)
    assert min(found) > lowest and max(found) < highest, found

    printed = ", ".join(f"{100 * share:.1f}" for share in found[:-1]) + f" and {100 * found[-1]:.1f} %"
    assert printed in " ".join((intervals.__doc__ or "").split())


@pytest.mark.parametrize("paired", [True, False])
def test_no_interval_is_narrower_than_its_sentences_alone_make_it(paired: bool):
    r"""Seeds do not scatter: of half of the differences their part of the variance is estimated below 0."""
    below = 0
    for one, other, _ in experiments(3, 0, 40):
        fixed = [x.mean(axis=0, keepdims=True) for x in (one, other)]
        alone = intervals.difference(*fixed, paired=paired)
        found = intervals.difference(one, other, paired=paired)
        assert found.margin >= alone.margin * (1 - 1e-6)
        below += found.margin < alone.margin * (1 + 1e-6)
    assert 8 < below < 32


if __name__ == "__main__":
    for by_seed in (False, True):
        for seeds in (3, 5):
            print(by_seed, seeds, [(scatter, coverage(seeds, scatter, 4000, by_seed)) for scatter in SEED], flush=True)
