r"""The guide takes what fits and is best in validation, and says its price and what the data could not have told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coursekit.comparison import from_csv, guide
from coursekit.comparison.evidence.plan import Cell, Run
from coursekit.comparison.evidence.results import CONSTANT, Evidence
from coursekit.comparison.guide import Budget
from coursekit.errors import CourseError
from coursekit.paths import DATA

COST = from_csv(DATA / "evidence" / "comparison.csv")[0]


def runs(arm: str, right: int, validation: float, steps: int = 100, seeds: int = 3) -> list[Run]:
    # The first `right` sentences of 400, so that a better arm is right wherever a worse one is.
    correct = (True,) * right + (False,) * (400 - right)
    return [Run(Cell(arm, steps, 1e-3, s), ((steps, validation),), correct, 7, 1.0) for s in range(seeds)]


EVIDENCE = Evidence(
    "t",
    (
        *runs(CONSTANT, 399, 0.99),
        *runs("full", 340, 0.85),
        *runs("full", 340, 0.86, steps=200),
        *runs("lucky", 338, 0.80),
        *runs("good", 336, 0.84),
        *runs("small", 280, 0.70),
        *runs("head", 260, 0.65),
        *runs("dear", 390, 0.97),
        *runs("late", 395, 0.98, seeds=1),
    ),
)
COSTS = {
    name: replace(COST, method=name, trained=trained, storage_bytes=4 * trained, peak=peak, step_ratio=ratio)
    for name, (trained, peak, ratio) in {
        "full": (1_000_000, 500, 1.0), "good": (50_000, 300, 0.8), "lucky": (50_000, 250, 0.7),
        "small": (1_000, 200, 0.6), "head": (0, 100, 0.3), CONSTANT: (0, 0, 0.01), "late": (10, 10, 0.1),
    }.items()
}  # fmt: skip


def decide(**limits):
    return guide.decide(EVIDENCE, COSTS, Budget("b", **limits))


def test_validation_chooses_and_the_test_sentences_say_the_price():
    found = decide(trained=60_000)
    assert found.arm == "good", "better in validation, though another has more test sentences right"
    assert found.price.value == pytest.approx(-0.01) and list(found.others) == ["lucky", "small", "head"]
    assert list(found.level) == ["lucky"] and found.ahead == []
    assert found.others["small"].value == pytest.approx(-0.14)
    assert found.level["lucky"].value == pytest.approx(2 / 400)
    assert found.unseen == found.level["lucky"].margin > 0
    assert "good" in str(found) and "not told apart from lucky: a difference up to" in str(found)


@pytest.mark.parametrize(
    "limits, arm",
    [
        ({}, "full"),
        ({"trained": 49_999}, "small"),
        ({"trained": 0}, "head"),
        ({"stored": 199_999}, "small"),
        ({"stored": 200_000}, "good"),
        ({"memory": 299}, "lucky"),
        ({"memory": 300}, "good"),
        ({"time": 0.79}, "lucky"),
        ({"time": 0.65, "memory": 150}, "head"),
    ],
)
def test_every_limit_counts(limits, arm):
    assert decide(**limits).arm == arm


def test_what_fits_nothing_and_what_is_alone():
    assert decide(time=0.2) is None, (
        "neither the constant answer nor an arm without every seed is a method to take"
    )
    alone = decide(trained=0)
    assert alone.level == {} and alone.unseen is None and str(alone).endswith("; nothing else fits")
    full = decide()
    assert full.price is None and full.unseen == full.others["lucky"].margin
    assert (
        str(full)
        == f"b: full; not told apart from lucky: a difference up to {full.unseen:.3f} would not show"
    )
    clear = decide(memory=200)
    assert str(clear).endswith("; better than every other that fits (1)") and "tell the two apart" not in str(
        clear
    )


def test_validation_may_have_chosen_badly_and_then_it_is_said():
    misled = Evidence("t", (*EVIDENCE.runs, *runs("shirt", 300, 0.99)))
    found = guide.decide(
        misled, COSTS | {"shirt": replace(COSTS["small"], method="shirt")}, Budget("b", trained=50_000)
    )
    assert found.arm == "shirt" and found.ahead == ["lucky", "good"] and found.level == {}
    assert "on the test sentences lucky, good did better" in str(found)


def test_an_arm_without_a_cost_is_not_considered():
    assert set(guide.considered(EVIDENCE, COSTS)) == {"full", "lucky", "good", "small", "head"}
    assert "dear" in EVIDENCE.arms


def test_lines_about_the_file():
    assert guide.below(EVIDENCE, "head") == []
    worse = Evidence("t", (*EVIDENCE.runs, *runs("bad", 200, 0.5)))
    assert guide.below(worse, "head") == ["bad"] and guide.below(worse, "good") == ["small", "head", "bad"]
    assert list(guide.longer(EVIDENCE)) == ["full"], "twice the steps were run"
    assert guide.longer(EVIDENCE)["full"] == pytest.approx(0.01)
    assert "full, 200 steps" in EVIDENCE.arms and "full, 200 steps" not in guide.against(EVIDENCE)


def test_the_table_has_a_row_for_each_budget():
    budgets = [Budget("small", trained=60_000), Budget("nothing", time=0.2)]
    choices = [guide.decide(EVIDENCE, COSTS, budget) for budget in budgets]
    one, none = guide.table(choices, budgets, COSTS).rows
    assert one[:6] == ["small", "good", "50,000", "200", "0", "0.80"] and one[-1] == "1 of 3"
    assert one[6].startswith("-0.010 (") and none[1] == "nothing measured fits"
    with pytest.raises(CourseError, match="one choice for each budget: got 1 for 2"):
        guide.table(choices[:1], budgets, COSTS)


def test_a_budget_is_checked():
    with pytest.raises(CourseError, match="trained must be a non-negative integer, such as 100000; got -1"):
        Budget("b", trained=-1)
    with pytest.raises(CourseError, match="time must be a number above 0"):
        Budget("b", time=0)


def test_what_the_file_says_is_computed_from_it():
    first, more, floor, better, worse, level, fewest = guide.said(EVIDENCE, expected=32, within=0.05)
    assert first.startswith("6 of 32 methods have runs with every seed; 25 runs")
    assert more == "twice the steps bring, in validation accuracy: full +0.010"
    assert floor == "below the head alone: none" and better == "better than full fine-tuning: dear"
    assert worse == "worse: good, small, head", "the best first"
    bad = guide.said(Evidence("t", (*EVIDENCE.runs, *runs("bad", 200, 0.5))), expected=32)[2]
    assert bad.startswith("below the head alone: bad -0.") and "told apart" not in bad
    assert level.startswith("not told apart from it: lucky (up to ±0.0") and fewest.endswith("dear, 7")
    assert list(guide.against(EVIDENCE)) == ["dear", "lucky", "good", "small", "head"]
    found = guide.points(EVIDENCE, without=(CONSTANT, "head"))
    assert set(found) == {"full", "dear", "lucky", "good", "small"} and found["good"][:2] == (7, 0.84)
    assert found["good"][2] < 0.84 < found["good"][3]


def test_without_full_fine_tuning_nothing_is_compared_with_it():
    alone = Evidence("t", tuple(run for run in EVIDENCE.runs if run.cell.arm != "full"))
    assert guide.against(alone) == {} and guide.said(alone, 32)[3] == "better than full fine-tuning: none"
