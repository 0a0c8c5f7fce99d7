r"""A table of evidence leaves out what is not there yet; a sweep takes rates that were run with every seed."""

from __future__ import annotations

import pytest

from coursekit.comparison.evidence import forgetting, in_context, results, tables
from coursekit.comparison.evidence.intervals import Interval
from coursekit.comparison.evidence.plan import Cell, Run
from coursekit.comparison.evidence.results import Evidence
from coursekit.comparison.evidence.sentences import (
    compared,
    coverage,
    rate_costs,
    standing,
)
from coursekit.errors import CourseError


def run(arm: str, rate: float, seed: int, right: int, steps: int = 100, validation: float = 0.8) -> Run:
    return Run(
        Cell(arm, steps, rate, seed),
        ((steps, validation),),
        (True,) * right + (False,) * (40 - right),
        7,
        1.0,
    )


RUNS = (
    *(run("r1", 1e-3, seed, 20) for seed in range(3)),
    *(run("r8", 1e-3, seed, 36, validation=0.9) for seed in range(3)),
    run("r8", 1e-2, 0, 40, validation=0.7),  # far behind with the first seed
    run("r8", 1e-3, 0, 10, steps=200),  # a longer run, not yet with every seed
    run("late", 1e-3, 0, 30),
)


def test_arms_that_were_not_run_with_every_seed_are_left_out():
    found = tables.arms(Evidence("t", RUNS), {"low": "r1", "high": "r8", "to come": "late"}, "r1")
    assert [row[0] for row in found.rows] == ["low", "high"] and found.columns[-1] == "minus low"
    (low, high) = found.rows
    assert "3 seeds" in found.note and found.note in repr(found) and found.note in found._repr_markdown_()
    assert low[-1] == "–" and high[-1].startswith("+0.400 (") and "not told apart" not in high[-1]
    assert high[1:4] == ["7", "0.001", "100"] and high[4].startswith("0.900 ± ")
    same = (
        tables.arms(Evidence("t", RUNS), {"again": "r8"}, "r8").rows
        + tables.arms(
            Evidence("t", (*RUNS, *(run("twin", 1e-3, s, 36) for s in range(3)))), {"twin": "twin"}, "r8"
        ).rows
    )
    assert same[0][-1] == "–" and same[1][-1].endswith("not told apart")


def test_what_is_not_measured_yet_is_named():
    evidence = Evidence("t", RUNS)
    labels = {"r1": "rank one", "late": "rank two", "unheard": "rank three"}
    assert coverage(evidence, labels) == (
        "1 of 3 settings have run with every seed; not measured yet: rank two; rank three"
    )
    assert coverage(evidence, {"r1": "rank one"}) == "1 of 1 settings have run with every seed"


def test_a_race_has_every_rate_that_was_tried_and_waits_for_all_seeds_of_the_best():
    race = tables.as_race(Evidence("t", RUNS), "r8", "r1")
    assert race[:4] == (*(("r8", 1e-3, s, 0.9, 0.9) for s in range(3)), ("r8", 1e-2, 0, 0.7, 1.0))
    assert race[4:] == tuple(("r1", 1e-3, s, 0.8, 0.5) for s in range(3))
    assert tables.as_race(Evidence("t", RUNS), "r8", "late") == ()
    assert tables.as_race(Evidence("t", RUNS), "r8", "unheard") == ()
    ahead = run("r8", 3e-3, 0, 40, validation=0.95)  # better, with one seed so far
    assert tables.as_race(Evidence("t", (*RUNS, ahead)), "r8", "r1") == ()


def test_a_sweep_has_whole_rates_of_the_runs_that_chose_them():
    runs = tables.as_sweep(Evidence("t", RUNS), {1: "r1", 8: "r8"}, scale=2)
    assert sorted(runs) == [(1, 2, 1e-3, s, 0.8, 0.5) for s in range(3)] + [
        (8, 16, 1e-3, s, 0.9, 0.9) for s in range(3)
    ]
    assert tables.as_sweep(Evidence("t", RUNS), {1: "r1", 2: "late"}, scale=2) == []


def test_claims_are_answered_from_the_runs_or_not_at_all():
    evidence = Evidence("t", RUNS)
    assert tables.answer(evidence, "r8", "r1").startswith("+0.400 (")
    assert tables.answer(evidence, "r8", "late") == "not measured yet"
    assert tables.rates(evidence, "r1", "none") == "not measured yet"
    faster = (*RUNS, *(run("fast", 3e-3, seed, 30) for seed in range(3)))
    assert tables.rates(Evidence("t", faster), "fast", "r1") == "0.003 against 0.001, 3 times"
    # 0.75 - 0.5 before, 0.9 - 0.75 after.
    moved = tables.change(Evidence("t", faster), ("fast", "r1"), ("r8", "fast"))
    assert moved.startswith("-0.100 (")
    assert tables.change(evidence, ("r8", "r1"), ("late", "r1")) == "not measured yet"
    assert evidence.once("r8") == [1e-2] and evidence.once("r1") == []


def test_longer_runs_of_examples_in_the_prompt():
    found = in_context.InContext({("shots", 5): (0.4,), ("LoRA", 5): (0.5, 0.6), ("LoRA", 9): (0.7,)}, 100)
    assert found.table().rows == [["5", "0.400", "0.550"], ["9", "–", "0.700"]]
    gap = found.difference(("LoRA", 5), ("shots", 5))
    assert gap.value == pytest.approx(0.15) and gap.margin == pytest.approx(1.96 * 0.004875**0.5, rel=1e-4)
    stored = in_context.read()
    assert stored.sentences == 300 and len(stored.shares["LoRA", 100]) == 3
    told = [stored.difference(("LoRA", n), ("shots", k)).tells for n, k in ((10, 10), (100, 5), (1000, 5))]
    assert told == [False, False, True], "as the text of notebook 00 says"
    assert stored.compared(("shots", 10), ("LoRA", 10)).endswith("not told apart")
    assert stored.compared(("LoRA", 1000), ("shots", 5)).startswith(
        "LoRA on 1,000 minus 5 in the prompt: +0.1"
    )
    scores = stored.scores("LoRA")
    assert list(scores) == [10, 100, 1000] and [s.value for s in scores[10]] == list(
        stored.shares["LoRA", 10]
    )
    assert stored.tokens["shots", 10] > 9 * stored.tokens["shots", 0]


def lines_of(way: str, rate: float, *correct: int) -> list[dict[str, str]]:
    common = dict(examples="10", lr=f"{rate:g}", sentences="50", tokens="30")
    return [dict(way=way, seed=str(seed), correct=str(right), **common) for seed, right in enumerate(correct)]


def test_the_prompts_own_examples_are_read_at_the_rate_that_validation_chose():
    rows = [
        *lines_of("shots", 0, 20),
        *lines_of("LoRA-same-search", 3e-4, 30, 10),
        *lines_of("LoRA-same-search", 1e-3, 22, 22),
    ]
    assert in_context.searched(rows) == {3e-4: 0.4, 1e-3: 0.44}
    before = in_context.parse(rows)
    assert set(before.shares) == {("shots", 10)} and list(before.curves()) == ["in the prompt"]
    assert before.compared(("shots", 10), ("LoRA-same", 10)) == (
        "10 in the prompt minus LoRA on the prompt's 10: not measured yet"
    )
    rows += [*lines_of("LoRA-same", 3e-4, 50, 50), *lines_of("LoRA-same", 1e-3, 25, 35)]
    found = in_context.parse(rows)
    assert found.shares["LoRA-same", 10] == (0.5, 0.7) and found.rates == {("LoRA-same", 10): 1e-3}
    assert found.compared(("LoRA-same", 10), ("shots", 10)).startswith(
        "LoRA on the prompt's 10 minus 10 in the prompt: +0.200"
    )
    assert found.table().rows == [["10", "0.400", "0.600"]] and len(found.curves()) == 2
    card = in_context.card(rows, {"machine": "a sun dial"})
    assert "- **machine**: a sun dial\n" in card and "0.0003 (0.400), 0.001 (0.440)" in card
    assert "| LoRA-same | 10 | 0.001 | 2 | 0.600 | 0.464 to 0.736 |\n" in card


def test_a_pair_is_told_apart_or_what_would_not_show_is_said():
    evidence = Evidence("t", (*RUNS, *(run("twin", 1e-3, s, 36) for s in range(3))))
    found = tables.pairs(
        evidence,
        {"rank?": ("r8", "r1"), "turned?": ("r1", "r8"), "same?": ("twin", "r8"), "to come?": ("late", "r1")},
    )
    assert [row[0] for row in found.rows] == ["rank?", "turned?", "same?"]
    assert found.rows[0][1:] == ["r8 − r1", repr(evidence.minus("r8", "r1")), "r8 is better"]
    assert found.rows[1][3] == "r8 is better" and found.rows[1][2].startswith("-0.400")
    assert found.rows[2][3] == "not told apart; a true difference of 0.000 would be found half of the time"


def test_validation_is_the_mean_over_the_seeds():
    runs = [run("a", 1e-3, seed, 20, validation=value) for seed, value in enumerate((0.7, 0.8, 0.9))]
    assert abs(Evidence("t", tuple(runs)).validation("a") - 0.8) < 1e-12


def test_what_the_card_says_is_settled(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "DATA", tmp_path)
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "t.md").write_text("# `t.csv`\n\n- **runs**: 7\n- **settled**: 5 of 32 arms\n")
    assert results.settled("t") == "5 of 32 arms" and results.settled("other") is None
    assert not results.there("t")
    (tmp_path / "evidence" / "t.csv").write_text("")
    assert results.there("t")


def test_a_sentence_says_which_is_above_or_that_nothing_is_told_apart_and_nothing_of_what_is_not_there():
    evidence = Evidence("t", (*RUNS, *(run("twin", 1e-3, s, 36) for s in range(3))))
    labels = {"r1": "rank 1", "r8": "rank 8", "twin": "its twin", "late": "late"}
    pairs = [("r8", "r1"), ("r1", "r8"), ("twin", "r8"), ("late", "r8")]
    above, below, same = compared(evidence, pairs, labels)
    assert above.startswith("rank 8 minus rank 1: +0.400 (")
    assert below.startswith("rank 1 minus rank 8: -0.400 (")
    assert same.startswith("its twin minus rank 8: ") and "not told apart" in same


def test_a_topic_that_was_not_run_yet_has_no_arms(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "DATA", tmp_path)
    assert results.read_if_there("t").arms == {}


def test_a_sentence_says_where_an_arm_stands_among_others():
    evidence = Evidence("t", (*RUNS, *(run("twin", 1e-3, s, 36) for s in range(3))))
    labels = {"r1": "one", "r8": "eight", "twin": "the twin", "late": "late"}
    assert standing(evidence, "r8", ["r1", "twin", "late"], labels) == (
        "eight is ahead of one; not told apart from the twin"
    )
    assert standing(evidence, "r1", ["twin", "r8"], labels) == "one is behind the twin and eight"
    assert standing(evidence, "late", ["r1"], labels) == "late is not compared yet: the runs are missing"


@pytest.mark.parametrize(
    "low, high, note, ahead",
    [
        (0.005, 0.03, "", "ahead of"),
        (0.0046, 0.03, "", "ahead of"),  # printed as +0.005
        (0.004, 0.03, ", only just: read it as a tie", "not told apart from"),
        (0.001, 0.003, ", only just: read it as a tie", "not told apart from"),
        (0.0, 0.03, ", not told apart", "not told apart from"),
        (-0.01, 0.03, ", not told apart", "not told apart from"),
        (-0.03, 0.0, ", not told apart", "not told apart from"),
        (-0.003, -0.001, ", only just: read it as a tie", "not told apart from"),
        (-0.03, -0.004, ", only just: read it as a tie", "not told apart from"),
        (-0.03, -0.0046, "", "behind"),
        (-0.03, -0.005, "", "behind"),
    ],
)
def test_an_interval_that_ends_near_0_is_a_tie_wherever_it_is_read(monkeypatch, low, high, note, ahead):
    gap = Interval((low + high) / 2, low, high)
    assert tables.well_apart(gap) == (not note) and tables.words(gap) == f"{gap!r}{note}"
    said = tables.told(gap, "one", "other")
    better = f"{'one' if gap.value > 0 else 'other'} is better"
    if "only just" in note:
        assert said == f"{better}, but only just: read it as a tie"
    else:
        assert said.startswith("not told apart; ") if note else said == better
    monkeypatch.setattr(Evidence, "minus", lambda self, arm, other: gap)
    assert (
        standing(Evidence("t", RUNS), "r8", ["r1"], {"r1": "one", "r8": "eight"}) == f"eight is {ahead} one"
    )


def test_what_the_other_learning_rates_cost_is_said_with_how_often_they_were_run():
    tried = [run("r8", 1e-4, seed, 36, validation=0.85) for seed in range(3)]
    evidence = Evidence("t", (*RUNS, *tried))
    assert rate_costs(evidence, ["r8", "late"], {"r8": "eight"}) == [
        "eight: best learning rate 0.001; 0.0001 costs 0.050, 0.01 costs 0.200 (one seed)"
    ]


def test_what_a_rate_costs_is_measured_with_the_seeds_that_it_was_run_with():
    best = [run("a", 1e-3, seed, 36, validation=0.95 - 0.05 * seed) for seed in range(3)]
    evidence = Evidence("t", (*best, run("a", 1e-2, 0, 36, validation=0.88)))
    assert rate_costs(evidence, ["a"], {"a": "a"}) == [
        "a: best learning rate 0.001; 0.01 costs 0.070 (one seed)"
    ]


def test_what_is_learned_and_what_is_kept():
    new = {("before", 0.0): (90.0, 92.0), ("full", 3e-3): (23.0, 25.0), ("EWC", 300.0): (24.0, 25.5)}
    old = {("before", 0.0): (20.0, 22.0), ("full", 3e-3): (30.0, 32.0), ("EWC", 300.0): (25.0, 27.0)}
    found = forgetting.Forgetting(new, old, "two seeds")
    assert found.undone(("EWC", 300)) == 0.5 and found.undone(forgetting.BEFORE) == 1
    assert found.apart(("EWC", 300), forgetting.PLAIN) == ([1.0, 0.5], [-5.0, -5.0])
    assert found.compared(("EWC", 300), forgetting.PLAIN).endswith(
        "tweets +0.5 to +1.0, old domains -5.0 to -5.0"
    )
    assert found.curves() == {"full": [(24.0, 31.0)], "EWC": [(24.75, 26.0)]}
    assert found.table().rows[1] == ["EWC, λ = 300", "24.8 ± 1.1", "26.0 ± 1.4"]
    stored = forgetting.read()
    assert stored.setting.startswith("3 seeds, 100 steps of 16 blocks, 200 test blocks")
    assert all(len(seeds) == 3 for seeds in stored.new.values())
    halves = [stored.undone(way) for way in (("replay", 0.2), ("L2-SP", 0.01), ("EWC", 3000))]
    assert [round(share, 2) for share in halves] == [0.45, 0.54, 0.61], "about half, as notebook 01 says"


def test_below_compares_with_the_learning_rate_that_learns_as_much():
    # Two seeds; with the second all is twice as large. 20 is the geometric mean of 10 and 40, as 80 is of 40 and 160.
    new = {("before", 0.0): (90.0, 90.0), ("full", 1e-3): (40.0, 80.0), ("full", 3e-3): (10.0, 20.0)}
    old = {("before", 0.0): (20.0, 20.0), ("full", 1e-3): (40.0, 80.0), ("full", 3e-3): (160.0, 320.0)}
    found = forgetting.Forgetting(
        new | {("EWC", 300.0): (20.0, 40.0), ("EWC", 900.0): (9.0, 18.0), ("LoRA", 16.0): (10.0, 85.0)},
        old | {("EWC", 300.0): (70.0, 170.0), ("EWC", 900.0): (70.0, 70.0), ("LoRA", 16.0): (161.0, 90.0)},
        "two seeds",
    )
    assert found.below(("EWC", 300)) == pytest.approx([-10, 10])
    assert found.below(("full", 1e-3)) == pytest.approx([0, 0])
    # A rate that learns less and forgets more than another is no point of the curve.
    too_high = {("full", 1e-2): (15.0, 30.0)}, {("full", 1e-2): (200.0, 400.0)}
    bent = forgetting.Forgetting(found.new | too_high[0], found.old | too_high[1], "two seeds")
    assert bent.below(("EWC", 300)) == pytest.approx([-10, 10])
    with pytest.raises(
        CourseError, match="learns as much as EWC, λ = 900: it reaches 9.0 with seed 0, plain"
    ):
        found.below(("EWC", 900))
    with pytest.raises(CourseError, match="reaches 85.0 with seed 1, plain fine-tuning from 20.0 to 80.0"):
        found.below(("LoRA", 16))
    assert [name for name, _ in found.strengths()] == ["0.001", "0.003", "300", "900"], "LoRA has one point"
    assert found.strengths()[0][1] == (60.0, 60.0)
    stored = forgetting.read()
    least, most = stored.below(("L2-SP", 0.01)), stored.below(("EWC", 3000))
    assert (round(max(least), 1), round(min(most), 1)) == (-2.4, -4.7), "as notebook 01 says"


def of_forgetting(remedy: str, strength: float, rate: float, *validation: float) -> list[dict[str, str]]:
    return [
        dict(remedy=remedy, strength=str(strength), lr=str(rate), seed=str(seed), validation=str(value))
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
