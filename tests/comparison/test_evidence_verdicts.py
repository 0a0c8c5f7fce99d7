r"""A question whose runs are there is answered with its interval; the others have no line; a factor of learning rates
is known as far as the grid goes.
"""

from __future__ import annotations

import math

import pytest

from coursekit.comparison.evidence.plan import Run
from coursekit.comparison.evidence.results import Evidence
from coursekit.comparison.evidence.verdicts import each_seed, factor, readings, times, verdicts
from tests.comparison.test_evidence_tables import RUNS, run

EVIDENCE = Evidence("t", (*RUNS, *(run("twin", 1e-3, seed, 36) for seed in range(3))))


def test_what_is_there_is_answered_and_what_is_not_has_no_line():
    asked = {"rank 8 minus rank 1": ("r8", "r1"), "a twin": ("twin", "r8"), "later": ("late", "r1")}
    first, second = verdicts(EVIDENCE, asked)
    runs = [run(arm, 1e-3, seed, 20 + seed * (arm == "a")) for arm in "ab" for seed in range(3)]
    assert first.startswith("rank 8 minus rank 1: +0.400 (+0.") and first.endswith(")")
    assert second == "a twin: +0.000 (+0.000 to +0.000), not told apart"
    level = Evidence("t", tuple(runs))
    (open_,) = verdicts(level, {"level": ("a", "b")})
    found = level.minus("a", "b")
    assert -found.low != pytest.approx(found.high, abs=1e-3), "each end has its own bound"
    assert open_ == f"level: {found!r}, not told apart", "the ends stand there once"
    assert verdicts(Evidence("t", ()), {"one": ("r8", "r1"), "two": ("r1", "r8")}) == []


def test_how_far_a_difference_moves_takes_four_arms():
    (line,) = verdicts(EVIDENCE, {"the gap from one pair to the other": ("twin", "r8", "r8", "r1")})
    assert line.startswith("the gap from one pair to the other: +0.400 (")


def test_a_text_has_its_differences_filled_in_once_all_its_arms_are_there():
    texts = {
        "rank {}, twin {}.": [("r8", "r1"), ("r8", "twin")],
        "the gap moves by {}.": [("twin", "r8", "r8", "r1")],
        "rank {}, later {}.": [("r8", "r1"), ("late", "r1")],
    }
    rank, gap = readings(EVIDENCE, texts)
    assert rank.startswith("rank +0.400 (") and rank.endswith(
        ", twin +0.000 (+0.000 to +0.000), not told apart."
    )
    assert gap.startswith("the gap moves by +0.400 (")
    assert readings(Evidence("t", ()), texts) == []


def test_a_factor_is_bounded_by_the_grid_and_open_at_its_edge():
    def grid(arm: str, best: float, *rates: float) -> list:
        return [run(arm, r, s, 30, validation=0.9 if r == best else 0.7) for r in rates for s in range(3)]

    runs = [
        *grid("a", 3e-3, 1e-3, 3e-3, 1e-2),
        *grid("b", 1e-4, 3e-5, 1e-4, 3e-4),
        *grid("c", 1e-4, 1e-4, 3e-4),
    ]
    found = Evidence("t", tuple(runs))
    low, high = times(found, "a", "b")
    assert (low, high) == pytest.approx((10.0, 100.0)) and low < 3e-3 / 1e-4 < high
    assert times(found, "a", "c") == pytest.approx((10.0, math.inf))
    assert times(found, "c", "a")[0] == 0.0
    assert times(found, "a", "unheard") is None
    said = factor(found, "a", "b", claimed=10)
    assert said == (
        "30 times on the grid. Either best rate may be off by half a grid step, which leaves 10 to 100 open: "
        "10 is at the end of that"
    )
    assert factor(found, "a", "b", claimed=100).endswith("100 is at the end of that")
    assert factor(found, "a", "b", claimed=20).endswith("10 to 100 open: 20 is inside")
    assert factor(found, "a", "b", claimed=3).endswith("10 to 100 open: 3 is outside")
    assert factor(found, "a", "c", claimed=20).endswith("leaves 10 or more open: 20 is inside")
    assert factor(found, "a", "c", claimed=10).endswith("10 is at the end of that")
    assert factor(found, "c", "a", claimed=20).endswith("leaves 0.1 or less open: 20 is outside")
    assert factor(found, "c", "c", claimed=20).endswith("leaves any factor open: 20 is inside")
    assert factor(found, "a", "unheard", claimed=10) is None


def test_each_seed_is_shown_beside_the_rate_that_was_chosen():
    def one(rate: float, seed: int, right: int, validation: float) -> Run:
        return run("a", rate, seed, right, validation=validation)

    better = [
        one(3e-3, seed, right, value) for seed, right, value in ((0, 36, 0.9), (1, 20, 0.5), (2, 32, 0.8))
    ]
    safer = [one(1e-3, seed, 30, 0.75) for seed in range(3)]
    found = Evidence("t", (*better, *safer, one(1e-2, 0, 20, 0.5)))
    assert each_seed(found, "a", "eight") == [
        "eight; learning rate 0.001 (chosen): validation 0.750, 0.750, 0.750; test 0.750, 0.750, 0.750",
        "eight; learning rate 0.003: validation 0.900, 0.500, 0.800; test 0.900, 0.500, 0.800",
    ], "the rate with one seed has no line"
    assert each_seed(found, "unheard", "none") == []
