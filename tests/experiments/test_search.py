r"""Which run comes next: rates, seeds, cliffs, longer runs; and what a grid refuses."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from coursekit.errors import CourseError
from coursekit.experiments import search
from coursekit.experiments.card import card
from coursekit.experiments.recipe import LADDER, Arm, Grid, neighbours
from coursekit.experiments.results import Results
from coursekit.experiments.table import Cell, Run

RATES = (1e-3, 3e-3, 1e-2)
GRID = Grid("t", (Arm("a", None, RATES), Arm("b", None, RATES)), "a", steps=100, doublings=2, points=10)
SHORT = replace(GRID, doublings=0)


def carried_out(grid: Grid, value: Callable[[Cell], float | None]) -> list[Run]:
    r"""All runs of `grid`, where `value(cell)` is the validation accuracy; None: the run failed."""
    runs: list[Run] = []
    while cells := search.next_cells(grid, runs):
        assert len(runs) < 1000 and len(set(cells)) == len(cells)
        for cell in cells:
            reached = value(cell)
            curve = () if reached is None else ((cell.steps, reached),)
            runs.append(Run(cell, curve, (True, False), 5, 1.0, "" if curve else "the loss is nan"))
    assert len({run.cell for run in runs}) == len(runs), "no run twice"
    return runs


def tried(runs: list[Run], arm: str = "a", steps: int = 100) -> dict[float, set[int]]:
    found: dict[float, set[int]] = {}
    for run in runs:
        if (run.cell.arm, run.cell.steps) == (arm, steps):
            found.setdefault(run.cell.rate, set()).add(run.cell.seed)
    return found


def test_the_first_seed_tries_every_rate_before_others_are_spent_on_one():
    cells = search.next_cells(SHORT, [])
    assert {(c.arm, c.rate, c.seed) for c in cells} == {(a, r, 0) for a in "ab" for r in RATES}
    runs = [Run(c, ((100, 0.7 - c.rate),), (True,), 5, 1.0) for c in cells]  # 1e-3 is an edge
    assert {(c.rate, c.seed) for c in search.next_cells(SHORT, runs)} == {(3e-4, 0)}


def test_a_cliff_gets_all_seeds_and_what_lies_beyond_it_one():
    r"""The best rate's two neighbours, however far behind: how narrow is the peak?"""
    runs = carried_out(SHORT, lambda cell: {3e-4: 0.6, 1e-3: 0.79, 3e-3: 0.80, 1e-2: 0.5}.get(cell.rate, 0.0))
    assert tried(runs) == {1e-3: {0, 1, 2}, 3e-3: {0, 1, 2}, 1e-2: {0, 1, 2}}
    far = Grid("t", (Arm("a", None, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),), "a", steps=100)
    runs = carried_out(far, lambda cell: {1e-3: 0.7, 3e-3: 0.80, 1e-2: 0.5}.get(cell.rate, 0.2))
    assert tried(runs) == {3e-4: {0}, 1e-3: {0, 1, 2}, 3e-3: {0, 1, 2}, 1e-2: {0, 1, 2}, 3e-2: {0}}


def test_a_neighbour_that_wins_with_all_its_seeds_is_chosen_and_gets_its_neighbours():
    table = {1e-3: (0.5, 0.5, 0.5), 3e-3: (0.8, 0.6, 0.6), 1e-2: (0.7, 0.9, 0.9), 3e-2: (0.6, 0.1, 0.1)}
    runs = carried_out(SHORT, lambda cell: table[cell.rate][cell.seed])
    found = search.settled(SHORT, runs)["a"]
    assert found.rate == 1e-2 and tried(runs)[3e-2] == {0, 1, 2}
    assert Results("t", tuple(runs)).rate("a") == found.rate


@pytest.mark.parametrize("best", [1e-6, 1e-4, 3e-3, 1e-1, 3.0])
def test_the_search_goes_on_until_the_best_rate_lies_within(best):
    runs = carried_out(SHORT, lambda cell: 0.9 - 0.1 * abs(math.log10(cell.rate / best)))
    found = search.settled(SHORT, runs)["a"]
    assert found.rate == best and found.open == (best in (1e-6, 3.0))
    assert found.open or min(tried(runs)) < best < max(tried(runs))


def test_a_rate_at_which_one_seed_fails_is_not_chosen():
    def value(cell: Cell) -> float | None:
        return None if cell.rate == 3e-3 and cell.seed == 2 else {3e-3: 0.9, 1e-3: 0.7}.get(cell.rate, 0.6)

    found = search.settled(SHORT, carried_out(SHORT, value))["a"]
    assert found.rate == 1e-3 and len(found.runs) == 3


def test_where_every_rate_fails_the_search_ends():
    found = search.settled(SHORT, carried_out(SHORT, lambda cell: None))["a"]
    assert found.gain is None and found.runs[0].why


def test_more_seeds_run_at_the_chosen_rate_alone():
    grid = replace(SHORT, best_seeds=5)
    runs = carried_out(grid, lambda cell: 0.8 - 10 * abs(cell.rate - 3e-3))
    assert tried(runs) == {1e-3: {0, 1, 2}, 3e-3: set(range(5)), 1e-2: {0, 1, 2}}
    assert len(search.settled(grid, runs)["a"].runs) == 5


def test_longer_runs_are_tuned_again_at_two_rates_and_go_on_as_long_as_they_bring_something():
    def value(cell: Cell) -> float:
        reached = {"a": min(cell.steps, 150), "b": cell.steps}[cell.arm] / 1000
        best = 3e-3 if cell.steps == 100 else 1e-3
        return 0.3 + reached - 0.01 * abs(math.log10(cell.rate / best))

    runs = carried_out(GRID, value)
    found = search.settled(GRID, runs)
    assert abs(found["a"].gain) < 0.051 and found["b"].gain > 0.15
    assert set(tried(runs, "b", 200)) == {1e-3, 3e-3} and set(tried(runs, "b", 400)) == {3e-4, 1e-3}
    assert {one.steps for one in found.values()} == {100}  # what is compared has trained equally long
    assert Results("t", tuple(runs)).rate("b, 200 steps") == 1e-3


def test_longer_runs_wait_for_the_other_arms():
    runs = carried_out(SHORT, lambda cell: 0.3 - 0.01 * abs(math.log10(cell.rate / 3e-3)))
    cells = search.next_cells(GRID, [run for run in runs if run.cell.arm == "a"])
    assert [c.arm for c in cells[:3]] == ["b"] * 3 and {(c.arm, c.steps) for c in cells[3:]} == {("a", 200)}


def test_an_arm_may_take_another_s_rate_a_single_one_or_seeds_of_its_own():
    arms = (
        Arm("a", None, RATES), Arm("like a", None, (), like="a"), Arm("one", None, (0.5,)),
        Arm("none", None, (0.0,), 0, seeds=(0,)), Arm("list", None, (0.5, 0.7), grows=False),
    )  # fmt: skip
    grid = Grid("t", arms, "a", steps=100)
    assert not any(cell.arm == "like a" for cell in search.next_cells(grid, []))
    runs = carried_out(grid, lambda cell: 0.8 - 10 * abs(cell.rate - 3e-3) / (1 + cell.rate))
    assert tried(runs, "like a") == {3e-3: {0, 1, 2}} and tried(runs, "one") == {0.5: {0, 1, 2}}
    assert tried(runs, "none", 0) == {0.0: {0}} and set(tried(runs, "list")) == {0.5, 0.7}


def test_the_judge_may_be_something_else_than_accuracy():
    grid = replace(SHORT, judge=lambda run: -float(run.curve[0][1]))
    assert search.settled(grid, carried_out(grid, lambda cell: abs(math.log10(cell.rate))))["a"].rate == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Arm("a", None, (1e-3, 3e-3)), "rates must be three or more"),
        (lambda: Arm("a", None, (1e-3, 2e-3, 3e-3)), "1 and 3 times a power of ten"),
        (lambda: Arm("a", None, ()), "rates must be"),
        (lambda: Grid("t", (Arm("a", None, RATES),) * 2, "a"), "two arms of t are called 'a'"),
        (lambda: Grid("t", (Arm("a", None, RATES), Arm("a, b", None, RATES)), "a"), "reads as a state of 'a'"),
        (lambda: Grid("t", (Arm("a", None, RATES),), "b"), "no arm 'b'"),
        (lambda: Grid("t", (Arm("a", None, RATES),), "a", seeds=(0, 0)), "seeds must be different"),
        (lambda: Grid("t", (Arm("a", None, RATES, steps=-5),), "a"), "steps must be"),
    ],
)
def test_a_grid_that_could_show_nothing_is_refused(make, message):
    with pytest.raises(CourseError, match=message):
        make()


def test_neighbours_on_the_ladder():
    assert neighbours(1e-3) == (3e-4, 1e-3, 3e-3) and neighbours(LADDER[0]) == LADDER[:2]
    assert search.beyond({1e-3: 0.5, 3e-3: 0.7, 1e-2: 0.7}) is None  # of equals the lowest
    assert search.beyond({1e-3: 0.5, 3e-3: None, 1e-2: None}) == 3e-4


def test_a_card_says_how_sure_each_arm_is_and_what_is_missing():
    runs = [
        replace(run, correct=tuple(i < (45 if run.cell.arm == "a" else 20) for i in range(50)))
        for run in carried_out(replace(GRID, doublings=1), lambda cell: 0.8 - 10 * abs(cell.rate - 3e-3))
    ]
    text = card(replace(GRID, doublings=1), runs, {"command": "python x"}, "What it is.")
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines() if line.startswith("| ")}
    assert rows["a"][1:5] == ["0.003", "100", "5", "3"] and rows["a"][5].startswith("0.900 (")
    assert rows["b"][6].startswith("−50.0 (") and rows["b"][7] == "worse" and "by twice the steps" in rows["b"][8]
    assert "2 of 2 arms" in text and "What it is." in text and "Holm" in text
    part = [run for run in runs if run.cell.arm == "a" or run.cell.rate != 1e-2]
    assert "preliminary" in card(GRID, part, {}, "")
    begun = [run for run in runs if run.cell.arm == "a"] + [run for run in runs if run.cell.arm == "b"][:1]
    assert "| b | | | | | search not finished | | | |" in card(GRID, begun, {}, "")
    assert "| b | | | | | not run yet | | | |" in card(GRID, begun[:-1], {}, "")


def test_a_card_of_runs_that_answered_nothing_counts_the_minutes_at_other_rates():
    found = carried_out(SHORT, lambda cell: 0.8 - 10 * abs(cell.rate - 3e-3))
    runs = [replace(run, correct=(), seconds=60.0, more={"tweet": "23.1"}) for run in found]
    other = sum(run.cell.rate != 3e-3 for run in runs)
    assert 0 < other < len(runs)
    said = f"{len(runs)} minutes by the clock, {other} of them for rates that were not chosen"
    assert said in card(SHORT, runs, {}, "")
    unsettled = [run for run in runs if run.cell.arm == "a" or run.cell.rate == 1e-2]
    half = sum(run.cell.rate != 3e-3 for run in unsettled if run.cell.arm == "a")
    assert f"{half} of them for rates that were not chosen" in card(SHORT, unsettled, {}, "")


def test_of_rates_with_as_many_right_answers_the_lowest_is_taken():
    r"""Added in another order their means differ by 1e-16, which is no lead."""
    more, same = 0.1 + 0.2, 0.3
    assert more > same and search.best({1e-3: more, 3e-3: same}) == search.best({1e-3: same, 3e-3: more}) == 1e-3
    assert search.best({1e-3: same, 3e-3: same + 1e-6}) == 3e-3 == search.best({1e-3: None, 3e-3: same})
