r"""What was learned and what was kept: seed by seed, beside the learning rate that learns as much."""

import pytest

from coursekit.errors import CourseError
from coursekit.experiments import forgetting
from coursekit.experiments.table import Cell, Run


def test_what_is_learned_and_what_is_kept():
    new = {("before", 0.0): (90.0, 92.0), ("full", 3e-3): (23.0, 25.0), ("EWC", 300.0): (24.0, 25.5)}
    old = {("before", 0.0): (20.0, 22.0), ("full", 3e-3): (30.0, 32.0), ("EWC", 300.0): (25.0, 27.0)}
    found = forgetting.Forgetting(new, old, "two seeds")
    assert found.apart(("EWC", 300), forgetting.PLAIN) == ([1.0, 0.5], [-5.0, -5.0])
    assert found.curves() == {"full": [(24.0, 31.0)], "EWC": [(24.75, 26.0)]}
    assert [row[0] for row in found.table().rows] == ["before", "full, rate 0.003", "EWC, λ = 300"]
    assert found.table().rows[2][1:] == ["24.8 ± 1.1", "26.0 ± 1.4"]
    stored = forgetting.read()
    assert stored.setting.startswith("3 seeds, 100 steps of 16 blocks, 200 test blocks")
    assert all(len(seeds) == 3 for seeds in stored.new.values())


def test_below_compares_with_the_learning_rate_that_learns_as_much():
    # Two seeds; with the second all is twice as large. 20 is the geometric mean of 10 and 40, as 80 is of 40 and 160.
    new = {("before", 0.0): (90.0, 90.0), ("full", 1e-3): (40.0, 80.0), ("full", 3e-3): (10.0, 20.0)}
    old = {("before", 0.0): (20.0, 20.0), ("full", 1e-3): (40.0, 80.0), ("full", 3e-3): (160.0, 320.0)}
    found = forgetting.Forgetting(
        new | {("EWC", 300.0): (20.0, 40.0), ("EWC", 900.0): (9.0, 18.0), ("LoRA", 16.0): (10.0, 85.0)},
        old | {("EWC", 300.0): (70.0, 170.0), ("EWC", 900.0): (70.0, 70.0), ("LoRA", 16.0): (161.0, 90.0)},
        "two seeds",
    )
    # 20 is the geometric mean of 10 and 40 here as well.
    back = {("WiSE-FT", 0.3): (40.0, 80.0), ("WiSE-FT", 0.9): (10.0, 20.0)}
    kept = {("WiSE-FT", 0.3): (25.0, 50.0), ("WiSE-FT", 0.9): (100.0, 200.0)}
    beside = forgetting.Forgetting(found.new | back, found.old | kept, "two seeds")
    assert beside.below(("EWC", 300), rival="WiSE-FT") == pytest.approx([70 - 50, 170 - 100])
    assert beside.without("WiSE-FT", ("LoRA", 16.0)).old.keys() == found.old.keys() - {("LoRA", 16.0)}
    assert found.below(("EWC", 300)) == pytest.approx([-10, 10])
    assert found.below(("full", 1e-3)) == pytest.approx([0, 0])
    # A rate that learns less and forgets more than another is no point of the curve.
    too_high = {("full", 1e-2): (15.0, 30.0)}, {("full", 1e-2): (200.0, 400.0)}
    bent = forgetting.Forgetting(found.new | too_high[0], found.old | too_high[1], "two seeds")
    assert bent.below(("EWC", 300)) == pytest.approx([-10, 10])
    with pytest.raises(
        CourseError, match="no full that was run learns as much as EWC, λ = 900: it reaches 9.0 with seed 0, full from"
    ):
        found.below(("EWC", 900))
    with pytest.raises(CourseError, match="reaches 85.0 with seed 1, full from 20.0 to 80.0"):
        found.below(("LoRA", 16))
    table = beside.against([("EWC", 300), ("EWC", 900), ("WiSE-FT", 0.9), ("full", 1e-3)])
    assert [row[0] for row in table.rows[:2]] == ["EWC, λ = 300", "EWC, λ = 900"]
    assert table.rows[0][1:] == ["−10.00 to +10.00", "+20.00 to +70.00"]
    assert table.rows[1][1:] == ["learns more"] * 2
    (beside_it,) = beside.against([("LoRA", 16)]).rows
    assert beside_it[1] == "–", "the second seed learns less than any"
    assert table.rows[2][2] == table.rows[3][1] == "", "of itself"
    row, *_ = beside.against([("EWC", 300)], lambda new, old, plain: new + len(plain)).rows
    assert row[1:3] == ["+22.00 to +42.00"] * 2
    stored = forgetting.read()
    least, most = stored.below(("L2-SP", 0.01)), stored.below(("EWC", 3000))
    assert (round(max(least), 1), round(min(most), 1)) == (-2.0, -3.5)


def of_forgetting(remedy: str, strength: float, rate: float, *validation: float) -> list[Run]:
    return [
        Run(Cell(f"{remedy} {strength:g}", 100, rate, seed), (), (), 5, 1.0, more={"validation": str(value)})
        for seed, value in enumerate(validation)
    ]


def test_the_learning_rate_of_a_remedy_is_the_best_of_those_with_every_seed():
    runs = [
        *of_forgetting("before", 0, 0, 90, 90),
        *of_forgetting("LoRA", 16, 1e-3, 25.0),
        *of_forgetting("LoRA", 16, 1e-2, 24.0, 28.0),
        *of_forgetting("LoRA", 16, 3e-2, 27.0, 24.0),
        *of_forgetting("LoRA", 64, 1e-3, 1.0, 1.0),  # another strength was not searched
        *of_forgetting("full", 1e-3, 1e-3, 30.0, 30.0),
        *of_forgetting("full", 3e-3, 3e-3, 29.0, 29.0),
    ]
    found = forgetting.searches(runs)
    assert list(found) == ["full", "LoRA"]
    assert found["LoRA"] == {1e-3: (25.0, 1), 1e-2: (26.0, 2), 3e-2: (25.5, 2)}
    assert forgetting.chosen(runs) == {"full": 3e-3, "LoRA": 3e-2}


def test_the_stored_runs_have_multi_task_as_replay_of_half():
    stored = forgetting.read()
    assert ("replay", 0.5) in stored.new and all(kind != "multi-task" for kind, _ in stored.new)
