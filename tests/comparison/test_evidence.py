r"""What is left to run, who runs it, how it is kept, and how sure a difference is."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.comparison.bench import Bench, Setting
from coursekit.comparison.candidates import CANDIDATES
from coursekit.comparison.evidence import grid as grids
from coursekit.comparison.evidence import intervals, plan, store, work
from coursekit.comparison.evidence.card import card
from coursekit.comparison.evidence.cell import Recipe, autocast, train
from coursekit.comparison.evidence.grid import Arm, Grid, few
from coursekit.comparison.evidence.plan import Cell, Run
from coursekit.comparison.evidence.results import Evidence, read
from coursekit.errors import CourseError

RATES = (1e-3, 3e-3, 1e-2)
GRID = Grid("t", (Arm("a", None, RATES), Arm("b", None, RATES)), "a", steps=100, doublings=2, points=10)


def carried_out(grid: Grid, value: Callable[[Cell, int], float | None]) -> list[Run]:
    r"""All runs of `grid`, where `value(cell, step)` is the validation accuracy; None: the run failed."""
    runs: list[Run] = []
    while cells := plan.next_cells(grid, runs):
        assert len(runs) < 1000
        for cell in cells:
            every = grid.every(cell.steps)
            points = [(step, value(cell, step)) for step in range(every, cell.steps + 1, every)]
            failed = any(v is None for _, v in points)
            runs.append(Run(cell, () if failed else tuple(points), (True, False), 5, 1.0))
    return runs


def test_every_rate_is_tried_with_every_seed_before_one_is_chosen():
    cells = plan.next_cells(GRID, [])
    assert {(c.arm, c.rate, c.seed) for c in cells} == {(a, r, 0) for a in "ab" for r in RATES}
    assert {c.steps for c in cells} == {100} and plan.settled(GRID, []) == {}
    runs = [Run(c, ((100, 0.7 - c.rate),), (True,), 5, 1.0) for c in cells]  # 1e-3 is an edge
    assert {(c.rate, c.seed) for c in plan.next_cells(GRID, runs)} == {(3e-4, 0)}
    runs = [Run(c, ((100, 0.8 if c.rate == 3e-3 else 0.78),), (True,), 5, 1.0) for c in cells]
    assert {(c.rate, c.seed) for c in plan.next_cells(GRID, runs)} == {(r, s) for r in RATES for s in (1, 2)}


def test_a_rate_far_behind_with_the_first_seed_gets_no_others():
    runs = carried_out(GRID, lambda cell, step: {1e-3: 0.76, 3e-3: 0.80, 1e-2: 0.78}.get(cell.rate, 0.0))
    tried = {(r.cell.rate, r.cell.seed) for r in runs if (r.cell.arm, r.cell.steps) == ("a", 100)}
    assert tried == {(1e-3, 0), *((rate, seed) for rate in (3e-3, 1e-2) for seed in (0, 1, 2))}


@pytest.mark.parametrize("best", [1e-6, 1e-4, 3e-3, 1e-1, 3.0])
def test_the_search_goes_on_until_the_best_rate_lies_within(best):
    runs = carried_out(GRID, lambda cell, step: 0.9 - 0.1 * abs(math.log10(cell.rate / best)))
    found = plan.settled(GRID, runs)["a"]
    assert found.rate == best and found.open == (best in (1e-6, 3.0))
    tried = {run.cell.rate for run in runs if run.cell.arm == "a"}
    assert found.open or min(tried) < best < max(tried)


def test_the_mean_over_the_seeds_chooses_not_one_seed():
    # Seed 0 alone likes 1e-2; the mean likes 3e-3.
    table = {1e-3: (0.66, 0.6, 0.6), 3e-3: (0.7, 0.8, 0.8), 1e-2: (0.71, 0.5, 0.5)}
    runs = carried_out(GRID, lambda cell, step: table.get(cell.rate, (0, 0, 0))[cell.seed])
    assert plan.settled(GRID, runs)["a"].rate == 3e-3


def test_a_rate_at_which_one_seed_fails_is_not_chosen():
    def value(cell: Cell, step: int) -> float | None:
        return None if cell.rate == 3e-3 and cell.seed == 2 else {3e-3: 0.9, 1e-3: 0.7}.get(cell.rate, 0.6)

    found = plan.settled(GRID, carried_out(GRID, value))["a"]
    assert found.rate == 1e-3 and len(found.runs) == 3


def test_steps_are_doubled_as_long_as_that_brings_something():
    def value(cell: Cell, step: int) -> float:
        reached = {"a": min(cell.steps, 150), "b": cell.steps}[cell.arm] / 1000
        return 0.3 + reached * step / cell.steps - 0.01 * abs(math.log10(cell.rate / 3e-3))

    runs = carried_out(GRID, value)
    found = plan.settled(GRID, runs)
    assert found["a"].flat and abs(found["a"].gain) < 1e-9
    assert not found["b"].flat and found["b"].gain > 0.15
    assert {run.cell.steps for run in runs} == {100, 200, 400}
    assert {one.steps for one in found.values()} == {100}  # what is compared has trained equally long
    assert {run.cell.rate for run in runs if run.cell.steps > 100} == {
        3e-3
    }  # the search is of the short runs


def test_an_arm_may_have_doublings_of_its_own():
    arms = (Arm("a", None, RATES, doublings=1), Arm("b", None, RATES))
    grid = Grid("t", arms, "a", steps=100, doublings=0)
    runs = carried_out(grid, lambda cell, step: 0.8 - 10 * abs(cell.rate - 3e-3))
    assert {(run.cell.arm, run.cell.steps) for run in runs} == {("a", 100), ("a", 200), ("b", 100)}
    assert "at most 1 time, tried with a" in card(grid, runs, {}, constant=0.5)
    asked_elsewhere = replace(grid, arms=(replace(arms[0], doublings=0), arms[1]))
    assert "taken over from another topic: a, 200 steps\n" in card(asked_elsewhere, runs, {}, constant=0.5)
    short = [run for run in runs if run.cell.steps == 100]
    assert "validation accuracy: not tried here\n" in card(asked_elsewhere, short, {}, constant=0.5)


def test_a_run_that_fails_when_it_is_longer_ends_the_doublings():
    runs = carried_out(
        GRID, lambda cell, step: None if cell.steps > 100 else 0.8 - 10 * abs(cell.rate - 3e-3)
    )
    found = plan.settled(GRID, runs)["a"]
    assert (found.steps, found.gain, found.flat) == (100, None, False)


def test_longer_runs_wait_for_the_other_arms():
    runs = carried_out(GRID, lambda cell, step: 0.3 + step / 1000 - 0.01 * abs(math.log10(cell.rate / 3e-3)))
    runs = [run for run in runs if run.cell.arm == "a" and run.cell.steps == 100]
    cells = plan.next_cells(GRID, runs)
    assert [c.arm for c in cells[:3]] == ["b"] * 3 and {(c.arm, c.steps) for c in cells[3:]} == {("a", 200)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Arm("a", None, (1e-3, 3e-3)), "rates must be three or more"),
        (lambda: Arm("a", None, (1e-3, 2e-3, 3e-3)), "1 and 3 times a power of ten"),
        (lambda: Grid("t", (Arm("a", None, RATES),) * 2, "a"), "two arms of t are called 'a'"),
        (
            lambda: Grid("t", (Arm("a", None, RATES), Arm("a, b", None, RATES)), "a"),
            "reads as a state of 'a'",
        ),
        (lambda: Grid("t", (Arm("a", None, RATES),), "b"), "no arm 'b'"),
        (lambda: Grid("t", (Arm("a", None, RATES),), "a", seeds=(0, 1)), "seeds must be three or more"),
        (lambda: Grid("t", (Arm("a", None, RATES),), "a", steps=5, points=6), "steps must be"),
        (lambda: Grid("t", (Arm("a", None, RATES, steps=5),), "a"), "steps must be"),
        (lambda: Grid("t", (Arm("a", None, RATES),), "a", points=1), "points must be"),
    ],
)
def test_a_grid_that_could_show_nothing_is_refused(make, message):
    with pytest.raises(CourseError, match=message):
        make()


# the file -------------------------------------------------------------------------------------------------

bits = st.lists(st.booleans(), max_size=40).map(tuple)
cells = st.builds(
    Cell, st.sampled_from("abc"), st.sampled_from((100, 200)), st.sampled_from(RATES), st.integers(0, 3)
)
points = st.tuples(st.integers(1, 9), st.integers(0, 10000).map(lambda n: n / 10000))
some_runs = st.lists(
    st.builds(
        Run,
        cell=cells,
        curve=st.lists(points, max_size=3).map(tuple),
        correct=bits,
        parameters=st.integers(0, 10**12),
        seconds=st.integers(0, 10**5).map(lambda n: n / 10),
        why=st.sampled_from(("", 'a "loss", that\nwas nan')),
    ),
    max_size=6,
    unique_by=lambda run: run.cell,
)


@settings(max_examples=60, deadline=None)
@given(some_runs)
def test_what_is_written_is_read(runs):
    text = store.written(runs)
    assert store.parse(text, Path("x.csv")) == sorted(runs, key=lambda run: run.cell)
    assert store.written(reversed(runs)) == text


def run_of(arm: str = "a", seed: int = 0, seconds: float = 1.0) -> Run:
    return Run(Cell(arm, 100, 1e-3, seed), ((50, 0.5), (100, 0.6)), (True, False, True), 7, seconds)


def test_a_torn_last_line_is_no_run_and_makes_way(tmp_path):
    kept = store.Store(tmp_path / "e.csv", tmp_path / "claims")
    kept.add(run_of(seed=0))
    whole = (tmp_path / "e.csv").read_text()
    (tmp_path / "e.csv").write_text(whole + "a,100,0.001,1,7,1.0,50:0.5")
    assert kept.runs() == [run_of(seed=0)]
    kept.add(run_of(seed=1))
    assert kept.runs() == [run_of(seed=0), run_of(seed=1)]


def test_of_two_runs_of_one_cell_the_first_stays(tmp_path):
    kept = store.Store(tmp_path / "e.csv", tmp_path / "claims")
    kept.add(run_of(seconds=1.0))
    kept.add(run_of(seconds=2.0))
    assert [run.seconds for run in kept.runs()] == [1.0]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", ",".join(store.COLUMNS) + "\na,x,1,0,1,1,,0,,\n"])
def test_what_is_no_evidence_is_said_in_a_line_and_left_alone(tmp_path, text):
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(CourseError, match="e.csv is no"):
        store.Store(tmp_path / "e.csv", tmp_path / "claims").runs()
    assert (tmp_path / "e.csv").read_text() == text


def test_two_processes_take_different_cells_and_the_claim_of_one_that_died_is_void(tmp_path):
    cells = [run_of(seed=seed).cell for seed in range(3)]
    here = store.Store(tmp_path / "e.csv", tmp_path / "claims")
    code = (
        "import sys; from coursekit.comparison.evidence.store import Store; from coursekit.comparison.evidence.plan "
        "import Cell\n"
        f"print(Store({str(tmp_path / 'e.csv')!r}, {str(tmp_path / 'claims')!r})"
        ".claim([Cell('a', 100, 1e-3, s) for s in range(3)]).seed, flush=True)\nsys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "0\n"
    assert here.claim(cells) == cells[1]
    assert here.claim(cells) == cells[2] and here.claim(cells) is None
    other.stdin.close()
    other.wait()
    assert here.claim(cells) == cells[0]
    here.release(cells[1])
    assert here.claim(cells) == cells[1]


def test_what_is_done_is_not_claimed_again(tmp_path):
    kept = store.Store(tmp_path / "e.csv", tmp_path / "claims")
    assert kept.claim([run_of().cell]) == run_of().cell
    kept.add(run_of())
    assert kept.claim([run_of().cell]) is None


# work -----------------------------------------------------------------------------------------------------


def carry(make, cell: Cell) -> list[Run]:
    value = 0.8 - 0.1 * abs(math.log10(cell.rate / 3e-3)) - (0.2 if cell.arm == "b" else 0)
    right = tuple(i < round(value * 50) for i in range(50))
    return [Run(cell, tuple((step, value) for step in range(10, cell.steps + 1, 10)), right, 7, 1.0)]


def test_a_grid_that_was_stopped_goes_on_to_the_same_file(tmp_path):
    whole, parts = (store.Store(tmp_path / f"{n}.csv", tmp_path / n) for n in ("whole", "parts"))
    assert work.work(GRID, whole, carry, say=lambda line: None) == 16

    class Stop(BaseException):
        pass

    def stopping(make, cell: Cell) -> list[Run]:
        if len(parts.runs()) in (0, 3, 15) and not stopped[len(parts.runs())]:
            stopped[len(parts.runs())] = True
            raise Stop
        return carry(make, cell)

    stopped = {0: False, 3: False, 15: False}
    for _ in range(3):
        with pytest.raises(Stop):
            work.work(GRID, parts, stopping, say=lambda line: None)
    work.work(GRID, parts, stopping, say=lambda line: None)
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert list((tmp_path / "parts").glob("*.json")) == []


def test_progress_says_what_is_left_and_about_how_long():
    assert work.progress(GRID, []) == "0 of 2 arms settled, 0 runs made, 6 to go"
    runs = [carry(None, run.cell)[0] for run in carried_out(GRID, lambda c, s: carry(None, c)[0].validation)]
    runs = [r for r in runs if r.cell.arm == "a"]
    runs = [Run(r.cell, r.curve, r.correct, 7, seconds=120.0) for r in runs]
    runs.append(Run(Cell("constant", 0, 0.0, 0), ((0, 0.5),), (True,), 0, 0.0))
    assert (
        work.progress(GRID, runs, processes=2)
        == "1 of 2 arms settled, 8 runs made, 3 to go, 2 min or more left"
    )
    assert work.progress(GRID, carried_out(GRID, lambda c, s: carry(None, c)[0].validation)).startswith(
        "all 2 arms"
    )


def test_workers_that_fail_are_counted_and_none_is_left():
    code = "import os, sys; sys.exit(os.environ['OMP_NUM_THREADS'] != '1')"
    assert work.Workers((sys.executable, "-c", code), 2, {}).run() == 0
    assert work.Workers((sys.executable, "-c", "import sys; sys.exit(3)"), 2, {}).run() == 2


def test_a_card_says_how_sure_each_arm_is():
    runs = [carry(None, run.cell)[0] for run in carried_out(GRID, lambda c, s: carry(None, c)[0].validation)]
    text = card(GRID, runs, {"command": "python benchmarks/evidence.py t"}, constant=0.5)
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert rows["a"].split(" | ")[1:5] == ["0.003", "100", "7", "0.800"]
    assert rows["a, 200 steps"].split(" | ")[1:3] == ["0.003", "200"]
    assert "| -0.200 |" in rows["b"] and "constant answer** on the same test sentences: 0.500" in text
    assert "2 of 2 arms" in text and "16, 0 minutes" in text and "+0.000 by twice the steps" in rows["b"]


def test_a_card_has_the_differences_of_the_evidence():
    answers = {
        Cell(arm, 100, 3e-3, s): drawn(0.8, 1, 300, 7 * s + ord(arm))[0] for arm in "ab" for s in range(3)
    }
    runs = [Run(cell, ((100, 0.8),), tuple(map(bool, right)), 7, 1.0) for cell, right in answers.items()]
    gap = Evidence("t", tuple(runs)).minus("b", GRID.reference)
    assert f"| {gap.value:+.3f} | {gap.low:+.3f} to {gap.high:+.3f} |" in card(GRID, runs, {}, constant=0.5)


# intervals ------------------------------------------------------------------------------------------------


def drawn(p: float, seeds: int, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((seeds, n)) < p


def test_the_interval_of_one_seed_is_that_of_a_share():
    n, p = 400, 0.8
    answers = np.arange(n) < p * n
    found = intervals.accuracy([answers])
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    assert found.value == pytest.approx(p)
    assert found.low == pytest.approx(p - half, abs=0.006) and found.high == pytest.approx(
        p + half, abs=0.006
    )


def test_pairing_by_sentence_makes_a_small_steady_difference_tell():
    hard = np.random.default_rng(0).random(500)
    one = [hard < 0.80] * 3
    other = [hard < 0.77] * 3  # the same sentences, and a few fewer right
    paired = intervals.difference(one, other)
    assert paired.tells and paired.value == pytest.approx(np.mean(one) - np.mean(other))
    apart = intervals.difference(one, [np.roll(other[0], 250)] * 3)
    assert apart.margin > 2 * paired.margin and not apart.tells


def test_the_change_of_a_difference_is_paired_by_sentence_too():
    hard = np.random.default_rng(0).random(500)
    at = {share: [hard < share] * 3 for share in (0.70, 0.72, 0.78, 0.80)}
    found = intervals.change((at[0.80], at[0.78]), (at[0.78], at[0.70]))
    steps = [intervals.difference(at[a], at[b]).value for a, b in ((0.80, 0.78), (0.78, 0.70))]
    assert found.tells and found.value == pytest.approx(steps[1] - steps[0])
    same = intervals.change((at[0.80], at[0.78]), (at[0.80], at[0.78]))
    assert same.value == same.margin == 0
    assert intervals.change((at[0.70], at[0.70]), (at[0.80], at[0.78])) == intervals.difference(
        at[0.80], at[0.78]
    )


def test_two_states_of_one_training_are_paired_by_seed():
    hard = np.random.default_rng(0).random(500)
    levels = (0.6, 0.8, 0.9)  # what training came to, with each seed
    one, other = ([hard < level - less for level in levels] for less in (0, 0.03))
    apart, paired = intervals.difference(one, other), intervals.difference(one, other, by_seed=True)
    assert paired.value == pytest.approx(np.mean(one) - np.mean(other)) == apart.value
    assert paired.tells and not apart.tells and apart.margin > 5 * paired.margin
    runs = [Run(Cell(arm, 9, 1e-3, seed), ((9, 0.5),), tuple(own[seed]), 7, 1.0)
            for arm, own in (("a", one), ("a, cut", other), ("b", other)) for seed in range(3)]  # fmt: skip
    found = Evidence("t", tuple(runs))
    assert found.minus("a", "a, cut") == paired and found.minus("a, cut", "a").tells
    assert found.minus("a", "b") == apart


def test_a_state_of_trained_models_is_of_those_at_the_best_rate_of_what_was_trained():
    # Cut, the models that were trained at 1e-2 do better; but whoever trains takes 1e-3.
    runs = [
        Run(Cell(arm, 9, rate, seed), ((9, validation),), (True,), 7, 1.0)
        for arm, rate, validation in (
            ("a", 1e-3, 0.9),
            ("a", 1e-2, 0.7),
            ("a, cut", 1e-3, 0.5),
            ("a, cut", 1e-2, 0.6),
        )
        for seed in range(3)
    ]
    found = Evidence("t", tuple(runs))
    assert found.rate("a") == found.rate("a, cut") == 1e-3
    alone = Evidence("t", tuple(run for run in runs if run.cell.arm == "a, cut"))
    assert alone.rate("a, cut") == 1e-2, "an arm of its own, whatever its name"


def _few(levels: dict[str, tuple[float, ...]]) -> Evidence:
    hard = np.random.default_rng(0).random(500)
    return Evidence("t", tuple(
        Run(Cell(arm, 9, 1e-3, seed), ((9, 0.5),), tuple(hard < share), 7, 1.0)
        for arm, shares in levels.items() for seed, share in enumerate(shares)
    ))  # fmt: skip


def test_arms_that_train_on_the_same_few_sentences_are_paired_by_seed():
    high, low = (0.6, 0.8, 0.9), (0.57, 0.77, 0.87)  # which sentences the seed drew moves both
    found = _few({few("a", 16): high, few("b", 16): low, few("b", 128): low, "a": high, "b": low})
    paired = found.minus(few("a", 16), few("b", 16))
    assert paired.tells
    for apart in (found.minus("a", "b"), found.minus(few("a", 16), few("b", 128))):
        assert apart.value == pytest.approx(paired.value) and apart.margin > 5 * paired.margin
    assert [grids.drawn(arm) for arm in ("a", few("a", 16), "a with 16 examples, 600 steps")] == [
        None,
        16,
        None,
    ]


def test_a_change_between_such_pairs_is_paired_by_seed():
    found = _few({
        few("a", 16): (0.5, 0.6, 0.8), few("b", 16): (0.53, 0.63, 0.83),
        few("a", 128): (0.7, 0.8, 0.9), few("b", 128): (0.67, 0.77, 0.87),
    })  # fmt: skip
    moved = found.change((few("a", 128), few("b", 128)), (few("a", 16), few("b", 16)))
    assert moved.value == pytest.approx(-0.06, abs=0.02) and moved.high < 0


def test_a_difference_is_the_same_from_both_sides():
    found = _few({"a": (0.6, 0.7, 0.9), "b": (0.5, 0.7, 0.7)})
    one, other = found.minus("a", "b"), found.minus("b", "a")
    assert (one.value, one.low, one.high) == (-other.value, -other.high, -other.low)


def test_the_variance_of_few_seeds_is_not_underrated():
    shares, n = (0.70, 0.75, 0.80), 100_000  # so many sentences that seeds alone move the mean
    found = intervals.accuracy([np.arange(n) < share * n for share in shares])
    # All 27 draws of three seeds from three, the standard deviation of their means widened to the unbiased one.
    drawn = [np.mean(one) for one in itertools.product(shares, repeat=3)]
    assert np.std(drawn) * math.sqrt(3 / 2) == pytest.approx(np.std(shares, ddof=1) / math.sqrt(3))
    assert found.margin == pytest.approx(
        0.05 * math.sqrt(3 / 2), abs=0.002
    )  # the outermost draws: all seeds alike


def test_what_is_printed_decides_what_is_told_apart():
    # Ends that the next thousand draws would put on the other side of 0 are 0.
    ends = []
    for seed in range(40):
        found = intervals.difference(drawn(0.83, 3, 400, seed), drawn(0.8, 3, 400, seed + 100), draws=400)
        printed = [float(end) for end in repr(found).partition("(")[2].strip(")").split(" to ")]
        assert [found.low, found.high] == printed and "-0.000" not in repr(found)
        assert found.tells is (printed[0] > 0 or printed[1] < 0)
        ends += printed
    assert min(map(abs, ends)) < 0.001, "none of these came near 0"


def test_seeds_that_disagree_widen_the_interval():
    steady = [np.arange(500) < 400] * 3
    wild = [np.arange(500) < k for k in (300, 400, 500)]
    reference = [np.arange(500) < 400] * 3
    assert intervals.difference(wild, reference).margin > 3 * intervals.difference(steady, reference).margin


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(60):
        found = intervals.difference(drawn(0.8, 3, 200, seed), drawn(0.8, 3, 200, 1000 + seed), draws=400)
        held += found.low <= 0 <= found.high
    assert 50 <= held <= 60


# what a notebook reads --------------------------------------------------------------------------------------


def test_a_notebook_reads_each_arm_at_its_best_rate_and_longer_runs_apart():
    runs = [carry(None, run.cell)[0] for run in carried_out(GRID, lambda c, s: carry(None, c)[0].validation)]
    longer = [Run(Cell("a", 400, 3e-3, s), ((400, 0.9),), (True,) * 50, 7, 60.0) for s in (0, 1, 2)]
    torn = [Run(Cell("b", 400, 3e-3, 0), ((400, 0.9),), (True,) * 50, 7, 60.0)]
    found = Evidence("t", tuple(runs))
    assert (found.rate("a"), found.steps("a"), found.parameters("a")) == (3e-3, 100, 7)
    assert found.gain("a") == pytest.approx(0)
    assert found.accuracy("a").value == pytest.approx(0.8)
    assert found.minus("b", "a").value == pytest.approx(-0.2)
    assert list(found.by_rate("a")) == sorted(RATES) and max(found.by_rate("a").values()) == pytest.approx(
        0.8
    )
    found = Evidence("t", tuple(runs + longer + torn))
    assert found.accuracy("a, 400 steps").value == 1 and found.steps("a, 400 steps") == 400
    assert found.accuracy("a").value == pytest.approx(0.8) and "b, 400 steps" not in found.arms
    assert found.gain("a, 200 steps") is None and found.by_rate("a").keys() == set(RATES)
    with pytest.raises(CourseError, match="unknown arm 'c'"):
        found.rate("c")
    with pytest.raises(CourseError, match="no evidence on 'nothing'"):
        read("nothing")


@pytest.mark.slow
def test_what_is_asked_of_a_trained_model_in_another_state_is_a_run_of_its_own():
    @contextmanager
    def wrong_way_round(model, bench, seed):
        model.classifier.weight.data.neg_(), model.classifier.bias.data.neg_()
        yield
        model.classifier.weight.data.neg_(), model.classifier.bias.data.neg_()

    bench = Bench(Setting("film", "two", "minilm", batch_size=4, sentences=24, validation=8))
    cell = Cell("a", 2, 1e-3, 0)
    recipe = Recipe(CANDIDATES["full"], also={"turned": wrong_way_round, "again": lambda *_: nullcontext()})
    own, turned, again = train(bench, recipe, cell, every=2)
    assert [run.cell.arm for run in (own, turned, again)] == ["a", "a, turned", "a, again"]
    assert turned.correct == tuple(not right for right in own.correct) and again.correct == own.correct
    assert turned.curve == ((2, pytest.approx(1 - own.curve[0][1])),)


def test_under_autocast_a_step_computes_with_the_weights_of_now():
    layer, x = torch.nn.Linear(4, 4, bias=False), torch.ones(1, 4)
    with autocast("cpu", True):
        before = layer(x)
        with torch.no_grad():
            layer.weight += 1
        after = layer(x)
    assert before.dtype is torch.bfloat16
    torch.testing.assert_close(after - before, torch.full_like(before, 4), atol=0.1, rtol=0)
