r"""A contest at one learning rate for both arms, and at each one's own; nothing is said of what has not run."""

from __future__ import annotations

from coursekit.comparison.evidence import contest
from coursekit.comparison.evidence.plan import Cell, Run
from coursekit.comparison.evidence.results import Evidence


def run(arm: str, rate: float, seed: int, right: int, validation: float, parameters: int = 7) -> Run:
    correct = (True,) * right + (False,) * (100 - right)
    return Run(Cell(arm, 100, rate, seed), ((100, validation),), correct, parameters, 1.0)


def three(arm: str, rate: float, right: int, validation: float, parameters: int = 7) -> list[Run]:
    return [run(arm, rate, seed, right, validation, parameters) for seed in range(3)]


RUNS = (
    *three("fisher", 1e-3, 60, 0.70),
    *three("fisher", 3e-3, 65, 0.80),
    run("fisher", 1e-2, 0, 50, 0.55),  # far behind with the first seed
    *three("chance", 3e-3, 66, 0.75),
    *three("chance", 1e-2, 90, 0.81),
    *three("whole", 1e-3, 70, 0.70, 700),
    run("late", 1e-3, 0, 90, 0.9, 9000),
)
EVIDENCE = Evidence("t", RUNS)


def test_the_difference_stands_at_each_shared_rate_and_at_each_ones_own():
    shared, own = contest.at_rates(EVIDENCE, "fisher", "chance").rows
    assert shared[:2] == ["0.003 for both", "+0.050"] and shared[2].startswith("-0.010 (")
    assert own[:2] == ["each its own: 0.003 and 0.01", "-0.010"] and own[2].startswith("-0.250 (")
    assert contest.at_rates(EVIDENCE, "fisher", "late").rows == []


def test_a_sentence_says_whether_a_shared_rate_names_another_winner():
    assert contest.at_a_shared_rate(EVIDENCE, "fisher", "chance") == (
        "At 0.003 for both, validation puts fisher ahead by 0.050. Each at its own, the test sentences decide the "
        "other way round: chance is ahead by 0.250."
    )
    assert "the same way: chance" in contest.at_a_shared_rate(
        Evidence("t", tuple(three("fisher", 3e-3, 65, 0.70) + three("chance", 3e-3, 90, 0.75))),
        "fisher",
        "chance",
    )
    level = Evidence("t", tuple(three("fisher", 3e-3, 65, 0.70) + three("chance", 3e-3, 65, 0.75)))
    assert contest.at_a_shared_rate(level, "fisher", "chance").endswith("do not tell them apart.")
    assert contest.at_a_shared_rate(EVIDENCE, "fisher", "late") == ""
    assert contest.at_a_shared_rate(EVIDENCE, "whole", "chance") == ""  # no rate of both


def test_a_peak_has_the_rates_beside_the_best_those_with_one_seed_too():
    assert contest.peak(EVIDENCE, "fisher") == (
        "fisher: validation accuracy 0.800 at its best learning rate 0.003, 0.700 at 0.001 and "
        "0.550 at 0.01 (one seed)"
    )
    assert contest.peak(EVIDENCE, "chance").endswith("0.01, 0.750 at 0.003")
    assert contest.peak(EVIDENCE, "whole") == contest.peak(EVIDENCE, "late") == ""


def test_a_larger_arm_that_is_below_gets_a_sentence():
    labels = {arm: f"the {arm}" for arm in ("fisher", "chance", "whole", "late", "unheard")}
    (sentence,) = contest.outdone(EVIDENCE, "chance", labels)
    assert sentence.startswith(
        "the whole trains 100 times as many parameters as the chance and is below it: -0.200 ("
    )
    ahead = (*RUNS, run("whole", 3e-3, 0, 99, 0.95, 700))  # better, with one seed so far
    assert contest.outdone(Evidence("t", ahead), "chance", labels) == []
    assert contest.outdone(EVIDENCE, "late", labels) == []
