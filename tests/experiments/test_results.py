r"""What a file says: intervals by hand, verdicts, tables; and that the course's files are read."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from coursekit.errors import CourseError
from coursekit.experiments import intervals, results, verdict
from coursekit.experiments.results import Results
from coursekit.experiments.table import Cell, Run
from coursekit.experiments.verdict import Verdict, decide, holm, in_words
from coursekit.paths import DATA

RANDOM = np.random.default_rng(0)


def answers(seeds: int, right: float, sentences: int = 400) -> np.ndarray:
    return RANDOM.random((seeds, sentences)) < right


def run(arm: str, seed: int, correct, rate=1e-3, steps=300, validation=0.8, **more) -> Run:
    return Run(Cell(arm, steps, rate, seed), ((steps, validation),), tuple(map(bool, correct)), 5, 1.0, **more)


# Intervals


def test_one_seed_is_the_t_interval_of_its_sentences():
    one = answers(1, 0.8)
    found, by_scipy = intervals.accuracy(one), stats.ttest_1samp(one[0].astype(float), 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((by_scipy.low, by_scipy.high))


def test_the_interval_of_a_share_ends_at_0_and_1_and_that_of_other_scores_does_not():
    scores = np.ones((3, 40))
    scores[0, :18] = 0
    found, other = intervals.accuracy(scores), intervals.accuracy(2 * scores)
    assert found.high == 1 < other.high / 2 and found.low == pytest.approx(other.low / 2) and found.value == 0.85
    assert intervals.accuracy(1 - scores).low == 0 > intervals.accuracy(2 - 2 * scores).low


def test_two_arms_of_one_seed_are_the_paired_t_test():
    one, other = answers(1, 0.8), answers(1, 0.7)
    found, by_scipy = intervals.difference(one, other), stats.ttest_rel(one[0].astype(float), other[0].astype(float))
    assert found.p == pytest.approx(by_scipy.pvalue) and found.low == pytest.approx(by_scipy.confidence_interval().low)


def test_where_only_seeds_scatter_it_is_welchs_t_test():
    # Every sentence alike: what is left is the seeds, each arm with its own variance.
    one, other = (np.repeat(np.array(v)[:, None], 5, axis=1) for v in ([0.8, 0.7, 0.9], [0.5, 0.52, 0.51]))
    found, by_scipy = intervals.difference(one, other), stats.ttest_ind(one[:, 0], other[:, 0], equal_var=False)
    limits = by_scipy.confidence_interval()
    assert (found.low, found.high, found.p) == pytest.approx((limits.low, limits.high, by_scipy.pvalue))


def test_paired_by_seed_a_shared_scatter_of_seeds_drops_out():
    sentences, seeds = answers(1, 0.7), np.array([[-0.1], [0.0], [0.1]])
    one, other = sentences + seeds, answers(3, 0.7) + seeds
    assert intervals.difference(one, other, by_seed=True).margin < intervals.difference(one, other).margin / 2


def test_paired_by_seed_the_share_counts():
    r"""90 % of what the parent keeps is another question than all of it."""
    one, other = answers(3, 0.75), answers(3, 0.8)
    found = intervals.difference(one, other, by_seed=True, share=0.9)
    assert found.value == pytest.approx(one.mean() - 0.9 * other.mean())
    matrix = one - 0.9 * other
    assert found.margin == pytest.approx(intervals.accuracy(matrix).margin)


def test_unpaired_sentences_add_their_variances():
    r"""Of counts alone nobody knows which sentences were right: two samples, as in a test of two shares."""
    one, other = np.sort(answers(1, 0.8, 5000)), np.sort(answers(1, 0.7, 5000))
    found = intervals.difference(one, other, paired=False)
    error = math.sqrt(sum(x.mean() * (1 - x.mean()) / 5000 for x in (one, other)))
    assert found.margin == pytest.approx(1.96 * error, rel=2e-3)


def test_the_same_answers_differ_by_nothing():
    one = answers(3, 0.8)
    assert str(intervals.difference(one, one, by_seed=True)) == "equal for practical purposes (within 3 points)"


def test_the_area_under_the_curve_has_delongs_variance():
    labels = np.arange(300) % 3 == 0
    margins = RANDOM.normal(size=(1, 300)) + labels
    scores = intervals.ranking(margins, labels)
    up, down = margins[0][labels], margins[0][~labels]
    above = (up[:, None] > down[None, :]).astype(float)
    assert scores.mean() == pytest.approx(above.mean())
    assert scores.mean() == pytest.approx(stats.mannwhitneyu(up, down).statistic / (len(up) * len(down)))
    delong = np.var(above.mean(1), ddof=1) / len(up) + np.var(above.mean(0), ddof=1) / len(down)
    assert np.var(scores[0], ddof=1) / 300 == pytest.approx(delong, rel=0.01)


# Verdicts


@pytest.mark.parametrize(
    ("low", "high", "so"),
    [
        (0.01, 0.05, Verdict.BETTER), (-0.05, -0.031, Verdict.WORSE), (-0.02, 0.04, Verdict.UNCLEAR),
        (-0.025, -0.005, Verdict.EQUAL), (-0.02, 0.02, Verdict.EQUAL), (-0.03, 0.02, Verdict.UNCLEAR),
        (0.001, 0.03, Verdict.BETTER),
    ],
)  # fmt: skip
def test_the_rule(low, high, so):
    assert decide(low, high) is so


def test_non_inferior_by_the_low_end_alone():
    assert verdict.non_inferior(-0.029) and not verdict.non_inferior(-0.03)
    assert intervals.Difference(0.03, -0.029, 0.09).non_inferior


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (0.031, 0.012, 0.051, "better by 3 points (1 to 5)"),
        (-0.031, -0.051, -0.012, "worse by 3 points (1 to 5)"),
        (-0.005, -0.02, 0.034, "no clear difference (−2 to +3 points)"),
        (0.02, 0.003, 0.037, "better by 2.0 points (0.3 to 3.7)"),
        (-0.01, -0.02, -0.005, "equal for practical purposes (within 3 points)"),
    ],
)
def test_the_verdict_in_words(value, low, high, words):
    assert in_words(value, low, high) == words


def test_holm_as_in_his_paper():
    # Three hypotheses of the example in Holm (1979): 0.01, 0.02, 0.04 become 0.03, 0.04, 0.04.
    assert holm({"b": 0.02, "a": 0.01, "c": 0.04}) == pytest.approx({"b": 0.04, "a": 0.03, "c": 0.04})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_in_a_table_more_is_asked_of_a_difference():
    assert decide(0.001, 0.05, p=0.2) is Verdict.UNCLEAR and decide(0.001, 0.05, p=0.04) is Verdict.BETTER


# Results


def three(arm: str, right: float, seeds=(0, 1, 2), **more) -> list[Run]:
    return [run(arm, seed, answers(1, right)[0], **more) for seed in seeds]


def test_more_seeds_of_one_arm_do_not_shut_out_the_others():
    found = Results("t", (*three("a", 0.8, range(5)), *three("b", 0.7)))
    assert len(found.arms["a"]) == 5 and len(found.arms["b"]) == 3
    assert found.difference("a", "b").verdict == "better"


def test_a_rate_with_more_seeds_is_chosen_by_the_first_three():
    r"""Later seeds were run at the chosen rate alone; that they are worse there must not unchoose it."""
    best = [run("a", s, answers(1, 0.8)[0], 1e-3, validation=0.8 if s < 3 else 0.5) for s in range(5)]
    found = Results("t", (*best, *three("a", 0.8, rate=3e-3, validation=0.75)))
    assert found.rate("a") == 1e-3 and found.by_rate("a") == {1e-3: pytest.approx(0.8), 3e-3: pytest.approx(0.75)}


def test_runs_without_validation_are_read_at_the_rate_with_the_lowest_loss():
    runs = [
        Run(Cell("a", 100, rate, seed), (), (True, rate > 1e-3), 5, 1.0, loss=loss)
        for rate, loss in ((1e-4, 0.9), (1e-3, 0.7), (1e-2, 0.3), (1e-1, 0.5))
        for seed in range(3)
    ]
    assert Results("made", tuple(runs)).rate("a") == 1e-2
    found = results.read("gate")
    for arm in ("gate", "open", "open-small"):
        means = {rate: statistics.fmean(run.loss for run in own) for rate, own in found.whole(arm).items()}
        assert found.rate(arm) == min(means, key=means.get)


def test_an_arm_without_a_first_seed_is_left_out_and_named():
    found = Results("t", (*three("a", 0.8), *three("b", 0.8, (0, 1, 3))))
    with pytest.raises(CourseError, match="unknown arm 'b'"):
        found.accuracy("b")


def test_what_trains_nothing_needs_no_seeds():
    found = Results("t", (*three("a", 0.8), run("none", 0, answers(1, 0.5)[0], 0.0, 0)))
    assert found.accuracy("none").value < 0.6


def test_a_state_is_of_the_models_that_one_would_have():
    runs = [r for rate, v in ((1e-3, 0.8), (1e-2, 0.7)) for r in three("a", v, rate=rate, validation=v)]
    states = [run("a, cut", r.cell.seed, r.correct, r.cell.rate, validation=1.5 - r.validation) for r in runs]
    found = Results("t", (*runs, *states))
    assert found.rate("a, cut") == found.rate("a") == 1e-3
    assert str(found.difference("a, cut", "a")).startswith("equal")


def test_a_table_has_the_accuracy_the_difference_and_the_verdict():
    found = Results("t", (*three("full", 0.9), *three("a", 0.5), *three("b", 0.9)))
    text = repr(found.table({"a": "method A", "full": "full fine-tuning"}, against="full"))
    assert "method A" in text and "worse" in text and "adjustment for 1 comparison;" in text.replace("\n", " ")
    assert found.differences(["a", "b", "full"], "full")["a"].family == 2


def test_a_table_of_pairs_adjusts_for_all_of_them():
    found = Results("t", (*three("full", 0.9), *three("a", 0.5), *three("b", 0.9)))
    asked = {"a − full": ("a", "full"), "b − full": ("b", "full")}
    assert found.paired(asked)["a − full"].p == 2 * found.difference("a", "full").p
    text = repr(found.pairs(asked))
    assert "a − full" in text and "worse" in text and "adjustment for 2 comparisons;" in text.replace("\n", " ")
    assert "intervals over test sentences and 3 seeds, not adjusted for multiple comparisons" in text
    assert "intervals over held-out sums and 3 seeds" in repr(found.pairs(asked, "held-out sums"))


def test_a_pair_may_ask_for_a_column():
    found = Results("t", tuple(run(a, i, [1, 0, 1], more={"m": f"{a} 2 {i}"}) for a in "19" for i in range(3)))
    asked = found.paired({"m": ("1", "9", "m"), "accuracy": ("1", "9")})
    assert (asked["m"].value, asked["accuracy"].value) == (pytest.approx(-8 / 3), 0)
    assert "−266.7" in repr(found.pairs({"m": ("1", "9", "m")}))
    assert found.scores("9", "m") == [[9, 2, i] for i in range(3)] and found.scores("9") == [(True, False, True)] * 3


def test_a_difference_of_other_scores_may_stand_among_the_pairs():
    found = Results("t", (*three("full", 0.9), *three("a", 0.5)))
    other = intervals.difference(answers(3, 0.9), answers(3, 0.5))
    asked = found.paired({"a − full": ("a", "full"), "other": other})
    assert [one.p for one in asked.values()] == [*holm({"a": found.difference("a", "full").p, "o": other.p}).values()]
    assert {one.family for one in asked.values()} == {2} and asked["other"].low == other.low
    text = " ".join(repr(found.pairs({"a − full": ("a", "full"), "other": other})).split())
    assert other.in_points() in text and "3 seeds" in text and "adjustment for 2 comparisons;" in text


def test_ranking_needs_margins():
    labels = np.arange(400) % 2 == 0
    kept = []
    for seed in range(3):
        margins = RANDOM.normal(size=400) + 2 * labels
        kept.append(run("a", seed, (margins > 0) == labels, margins=tuple(margins)))
    found = Results("t", (*kept, *three("b", 0.8)))
    assert found.accuracy("a", results.AUC).value == pytest.approx(stats.norm.cdf(math.sqrt(2)), abs=0.03)
    torn = [replace(one, margins=tuple((1 if i else -1) * m for m in one.margins)) for i, one in enumerate(kept)]
    area = Results("t", tuple(torn)).accuracy("a", results.AUC)
    assert (area.low, area.high) == (0, 1), "no area is less or more"
    with pytest.raises(CourseError, match="arm with margins"):
        found.accuracy("b", results.AUC)


def test_a_threshold_changes_the_accuracy_and_not_the_area():
    labels = np.arange(400) % 2 == 0
    runs = []
    for arm, offset, gain in (("a", 0.0, 1.0), ("moved", 2.0, 1.0), ("more", 0.0, 4.0)):
        for seed in range(3):
            margins = np.random.default_rng(seed).normal(size=400) + gain * (2 * labels - 1) + offset
            runs.append(run(arm, seed, (margins > 0) == labels, margins=tuple(margins)))
    found = Results("t", tuple(runs))
    assert found.difference("moved", "a").verdict == "worse"
    assert found.difference("moved", "a", of=results.AUC).value == pytest.approx(0)
    area = found.differences(["a", "moved", "more"], "a", results.AUC)
    assert area["more"].verdict == "better" and area["more"].family == 2
    shown = repr(found.table(["a", "more"], against="a", of=results.AUC))
    assert "AUC (95 %)" in shown and str(found.accuracy("more", results.AUC)) in shown and "better" in shown


@pytest.mark.parametrize("path", sorted((DATA / "evidence").glob("*.csv")), ids=lambda path: path.stem)
def test_every_file_of_answers_is_read(path):
    if path.stem in ("comparison", "forgetting"):  # costs, and perplexities
        pytest.skip("no answers of an arm")
    found = results.read(path.stem)
    assert len(found.arms) >= 2  # one, and what it is compared with
    for arm in found.arms:
        inside = found.accuracy(arm)
        assert 0 <= inside.value <= 1 and inside.low <= inside.value <= inside.high
        assert statistics.fmean(found.seeds(arm)) == pytest.approx(inside.value)


def test_a_column_with_a_number_for_each_item_has_an_interval_too():
    margins = np.array([[1.0, -2.0, 4.0], [2.0, 0.0, 5.0], [3.0, -1.0, 3.0]])
    runs = [
        run("a", seed, row > 0, more={"margin": " ".join(map(str, row)), "processor": "x"})
        for seed, row in enumerate(margins)
    ]
    found = Results("t", (*runs, *(run("b", seed, [1, 1, 1], more={"margin": "0 0 0"}) for seed in range(3))))
    by_hand = intervals.accuracy(margins)
    assert found.accuracy("a", of="margin") == by_hand and by_hand.value == pytest.approx(5 / 3)
    assert found.difference("a", "b", of="margin").value == pytest.approx(5 / 3)
    with pytest.raises(CourseError, match="column with a number for each test item"):
        found.accuracy("a", of="processor")


def test_a_state_that_is_asked_other_sentences_is_not_paired():
    one, other = answers(3, 0.8, 40), answers(3, 0.6, 30)
    rows = {"a": one, "a, other texts": other}
    found = Results("t", tuple(run(arm, seed, row) for arm, own in rows.items() for seed, row in enumerate(own)))
    gap = found.difference("a", "a, other texts")
    assert gap == intervals.difference(one, other, paired=False)
    assert gap.value == pytest.approx(one.mean() - other.mean())


def test_a_file_shows_its_topic_and_not_its_answers():
    assert repr(results.read("lora")) == "Results(topic='lora')"
