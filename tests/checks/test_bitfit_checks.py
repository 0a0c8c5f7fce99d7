r"""The judge of `bitfit-verdict` meets learning rates with one seed, as stored evidence has them."""

import statistics
from collections import Counter, defaultdict

import pytest

from coursekit.checks import bitfit, check


def every_variance(runs, one, other):
    r"""Right, but for the variance of all rates at once: one with a single seed has none."""
    test = defaultdict(list)
    for run in runs:
        test[run[:2]].append(run[4])
    assert all(statistics.variance(values) >= 0 for values in test.values())
    return bitfit.verdict(runs, one, other)


@pytest.mark.parametrize("seed", range(3))
def test_a_far_rate_has_one_seed_and_is_not_the_best(seed):
    runs, one, other = bitfit.VERDICT.public[seed]
    seeds = Counter(run[:2] for run in runs)
    assert sorted(seeds.values()) == [1, *[3] * 9]
    ((name, rate),) = [key for key, n in seeds.items() if n == 1]
    assert name == other and rate in (1e-4, 1e-2)
    best = max(
        {run[1] for run in runs if run[0] == other},
        key=lambda r: statistics.fmean(run[3] for run in runs if run[:2] == (other, r)),
    )
    assert rate != best


def test_a_solution_that_needs_three_seeds_everywhere_does_not_pass():
    assert "StatisticsError" in str(check("bitfit-verdict", every_variance))
    assert "passed" in str(check("bitfit-verdict", bitfit.verdict))


def test_of_two_rates_with_the_same_mean_the_lower_is_taken_however_the_mean_is_computed():
    def of_plain_sums(runs, name):
        validation = defaultdict(list)
        for run in runs:
            if run[0] == name:
                validation[run[1]].append(run[3])
        return max(sorted(validation), key=lambda rate: sum(validation[rate]) / len(validation[rate]))

    rule = bitfit._judged(choose=of_plain_sums)
    for draw in range(8):
        for case in bitfit.VERDICT.cases(b"drawn %d" % draw, 5):
            (said, gap), (right, wanted) = rule(*case), bitfit.verdict(*case)
            assert said == right and gap == pytest.approx(wanted), draw
    assert "passed" in str(check("bitfit-verdict", rule))
