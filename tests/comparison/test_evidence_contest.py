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


def test_a_sentence_has_the_test_difference_at_a_shared_rate_and_at_each_ones_own():
    said = contest.at_a_shared_rate(EVIDENCE, "fisher", "chance")
    assert said.startswith("fisher minus chance, test accuracy: at 0.003 for both -0.010 (")
    assert "; each at its own -0.250 (" in said
    two = (*three("chance", 1e-3, 85, 0.95), *RUNS)  # now two shared rates: the better one for both together
    assert "at 0.001 for both -0.250 (" in contest.at_a_shared_rate(Evidence("t", two), "fisher", "chance")
    assert contest.at_a_shared_rate(EVIDENCE, "fisher", "late") == ""
    assert contest.at_a_shared_rate(EVIDENCE, "whole", "chance") == ""  # no rate of both


def test_a_peak_has_the_rates_beside_the_best_those_with_one_seed_too():
    assert contest.peak(EVIDENCE, "fisher") == (
        "fisher: validation accuracy 0.800 at its best learning rate 0.003, 0.700 at 0.001 and "
        "0.550 at 0.01 (one seed)"
    )
    assert contest.peak(EVIDENCE, "chance").endswith("0.01, 0.750 at 0.003")
    assert contest.peak(EVIDENCE, "whole") == contest.peak(EVIDENCE, "late") == ""


def test_a_peak_names_the_rates_that_validation_cannot_tell_from_it():
    half = [
        run("fisher", 1e-2, seed, 80, v) for seed, v in ((1, 0.90), (2, 0.9500004))
    ]  # with seed 0: 0.8000001
    tied = Evidence("t", (*RUNS, *half, *three("fisher", 3e-2, 60, 0.798)))
    assert contest.ties(tied, "fisher") == [3e-3] and contest.ties(EVIDENCE, "fisher") == []
    assert contest.peak(tied, "fisher") == (
        "fisher: validation accuracy 0.800 at its best learning rate 0.01, 0.800 at 0.003 and 0.798 at 0.03; "
        "level with it: 0.003"
    )
    assert contest.at_own_rates(tied, "fisher") == (
        "fisher, validation and test accuracy: 0.700 and 0.600 at 0.001, 0.800 and 0.650 at 0.003, "
        "0.800 and 0.700 at 0.01, 0.798 and 0.600 at 0.03"
    )
    assert "0.01" not in contest.at_own_rates(EVIDENCE, "fisher")  # one seed
    assert contest.ties(EVIDENCE, "late") == [] and contest.at_own_rates(EVIDENCE, "late") == ""


def test_a_last_rise_is_of_the_mean_curve_and_longer_runs_are_named():
    def curve(steps: int, *values: float) -> list[Run]:
        points = tuple((steps // 2 * (i + 1), value) for i, value in enumerate(values))
        return [Run(Cell("a", steps, 1e-3, seed), points, (True,), 7, 1.0) for seed in range(3)]

    short = curve(100, 0.7, 0.72)
    said = "a: validation accuracy +0.020 from step 50 to step 100"
    assert contest.last_rise(Evidence("t", tuple(short)), "a") == said
    both = Evidence("t", (*short, *curve(200, 0.74, 0.76)))
    assert contest.last_rise(both, "a") == f"{said}; with twice the steps it ends +0.040 higher"
    assert contest.last_rise(EVIDENCE, "fisher") == contest.last_rise(EVIDENCE, "late") == ""


def test_each_larger_arm_gets_a_sentence_whichever_way_it_falls():
    labels = {arm: f"the {arm}" for arm in ("fisher", "chance", "whole", "late", "unheard")}
    (sentence,) = contest.larger(EVIDENCE, "chance", labels)
    assert sentence.startswith("the whole, 100 times as many parameters, minus the chance: -0.200 (")
    better = Evidence("t", (*RUNS, *three("whole", 3e-3, 99, 0.95, 700)))
    assert contest.larger(better, "chance", labels)[0].startswith(sentence.split(":")[0] + ": +0.090 (")
    unfinished = (*RUNS, run("whole", 3e-3, 0, 99, 0.95, 700))  # better, with one seed so far
    assert contest.larger(Evidence("t", unfinished), "chance", labels) == []
    assert contest.larger(EVIDENCE, "late", labels) == []
