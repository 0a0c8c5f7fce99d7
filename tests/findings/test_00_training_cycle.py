r"""What 00 says of the stored runs, and of its own."""

from __future__ import annotations

import csv
import statistics

import pytest
from finding import printed, said

from coursekit.experiments import results
from coursekit.experiments.results import Results
from coursekit.paths import DATA
from coursekit.tasks import load_task

PAGE = "00_training_cycle"
SAME_TEN = "LoRA on the prompt's 10"
RIVALS = ("nothing", "frequencies", "pairs")
NUMBER = r"\s+([+-]?[\d.]+)"


@pytest.fixture(scope="module")
def context() -> Results:
    return results.read("in_context")


def test_a_thousand_examples_in_training_beat_ten_in_the_prompt(context):
    ten = context.difference("LoRA on 1000", "10 shots")
    assert ten.verdict == "better"
    said(PAGE, f"A thousand examples in training are {ten} than ten in the prompt")
    said(PAGE, f"a thousand in training are {ten} than ten in the prompt")
    said(PAGE, f"and the prompt without an example {context.accuracy('0 shots').value:.2f}")


def test_with_the_same_ten_there_is_no_clear_difference(context):
    others = [f"{n} shots" for n in (0, 1, 2, 5)] + [SAME_TEN] + [f"LoRA on {n}" for n in (10, 100, 1000)]
    assert context.differences(others, "10 shots")[SAME_TEN].verdict == "no clear difference"
    assert len(others) == 8
    assert context.difference(SAME_TEN, "10 shots").low > 0  # alone its interval leaves out 0
    said(PAGE, "corrected for the eight stored comparisons it is no clear difference")
    said(PAGE, f"another ten score {context.accuracy('LoRA on 10').value:.3f}")
    assert context.accuracy(SAME_TEN).value > context.accuracy("10 shots").value


def test_the_table_is_that_of_the_stored_runs(context):
    names = {SAME_TEN: "LoRA on the same ten", "LoRA on 1000": "LoRA on a thousand"}
    others = [arm for arm in context.arms if arm not in ("10 shots", "constant")]
    found = context.differences(others, "10 shots")
    assert len(others) == 8
    said(PAGE, f"| ten in the prompt | {context.accuracy('10 shots')} | – | – |")
    for arm, name in names.items():
        assert len(context.arms[arm]) == 3 and any(run.counted for run in context.arms[arm] + context.arms["10 shots"])
        said(PAGE, f"| {name} | {context.accuracy(arm)} | {found[arm].in_points()} | {found[arm].verdict} |")
    said(PAGE, "LoRA has three seeds; nothing is paired")


def test_the_commonest_grade():
    grades = load_task("film", "five").data["test"]["label"][:300]
    said(PAGE, f"the commonest alone would score {max(map(grades.count, set(grades))) / 300:.2f}")


def test_ten_examples_make_a_query_ten_times_as_long():
    with open(DATA / "evidence" / "in_context.csv", encoding="utf-8") as file:
        tokens = {row["arm"]: float(row["tokens"] or 0) for row in csv.DictReader(file)}
    assert round(tokens["10 shots"] / tokens["0 shots"]) == 10
    said(PAGE, f"{tokens['10 shots']:.0f} tokens instead of {tokens['0 shots']:.0f}")


def test_this_run_of_the_small_model_beats_the_table():
    model, table = printed(PAGE, r"the model ([\d.]+), the table of pairs ([\d.]+) nats")
    assert float(model) < float(table)
    said(PAGE, f"the model reaches {model} nats a token in this run and the table of pairs {table}")
    said(PAGE, f"only just beat a table of pairs in this run, {model} against {table} nats")
    first = printed(PAGE, "below a rival: " + "; ".join(rf"'knows {what}' ([\d,]+)" for what in RIVALS))
    below = "below *knows nothing* from the first one on, after {} tokens, below *knows frequencies* after {} and below"
    said(PAGE, below.format(*first))
    said(PAGE, f"below the table of pairs only after {first[2]} of 307,200")


def test_this_run_of_instruction_tuning():
    before, after = (printed(PAGE, rf"{state}{3 * NUMBER}") for state in ("as released", "instructed"))
    said(PAGE, f"the loss on unseen answers fell from {before[0]} to {after[0]}")
    said(PAGE, f"most at the end token, from {before[1]} to {after[1]}")
    said(PAGE, f"brought the loss on unseen ones from {before[0]} to {after[0]}, most at the end token")
    loss, end, others = (float(b) - float(a) for b, a in zip(before, after, strict=True))
    assert end > loss > others > 0
    share = (float(before[0]) - float(before[2])) / (float(before[1]) - float(before[2]))  # of end tokens
    assert round(share * end / loss, 1) == 0.5
    said(PAGE, "End tokens make half of the fall")


@pytest.fixture(scope="module")
def dpo() -> Results:
    return results.read("dpo")


FILM, PRODUCT, ALONE = "DPO", "DPO, product reviews", "chosen alone"


def means(found: Results, arm: str, of: str) -> list[float]:
    r"""Of the pairs, one for each seed."""
    return [statistics.fmean(map(float, run.more[of].split())) for run in found.arms[arm]]


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def test_the_margin_is_positive_for_most_pairs(dpo):
    shares = [dpo.accuracy(arm) for arm in (FILM, PRODUCT)]
    assert all(share.low > 0.5 for share in shares)
    said(PAGE, "DPO's margin is above 0 for more than half of the pairs of either kind")
    assert [len(dpo.arms[arm][0].correct) for arm in (FILM, PRODUCT)] == [24, 22]
    said(PAGE, "each with 64 instructions and 24 pairs of its own, on 24 film and 22 product pairs")
    card = (DATA / "evidence" / "dpo.md").read_text(encoding="utf-8")
    assert "`DPO`: sixteen steps of stage 2, then twelve of two pairs" in card  # of four instructions each
    assert all(dpo.accuracy(arm, of="margin").low > 0 for arm in (FILM, PRODUCT))


def test_both_answers_become_less_likely(dpo):
    assert all(max(means(dpo, PRODUCT, of)) < 0 for of in ("chosen", "rejected"))
    chosen, margin = (dpo.accuracy(PRODUCT, of=of) for of in ("chosen", "margin"))
    assert chosen.high < 0
    first, second, third = (f"{-mean:.1f}" for mean in means(dpo, PRODUCT, "chosen"))
    said(
        PAGE,
        f"with every seed: the chosen by {first}, {second} and {third} nats, {-chosen.value:.1f} on average "
        f"({-chosen.high:.2f} to {-chosen.low:.2f}), and the margin is still {signed(margin.value)}",
    )
    said(PAGE, f"({signed(chosen.value)} nats) while the margin rose ({signed(margin.value)})")
    film = dpo.accuracy(FILM, of="chosen")
    assert film.low < 0 < film.high
    first, second, third = map(signed, means(dpo, FILM, "chosen"))
    said(PAGE, f"On the film reviews the chosen moved by {first}, {second} and {third} nats")


def test_the_loss_does_it(dpo):
    film, product = (dpo.accuracy(arm, of="chosen") for arm in (ALONE, f"{ALONE}, product reviews"))
    assert film.low > 0 > product.low and product.high > 0
    said(PAGE, f"The chosen film answers became likelier, by {film.value:.1f} nats")
    low, high = signed(product.low), signed(product.high)
    said(PAGE, f"The chosen product answers show no clear move, {signed(product.value)} ({low} to {high})")
    for kind, arm in (("", FILM), (", product reviews", PRODUCT)):
        gap = dpo.difference(arm, f"{ALONE}{kind}", of="chosen")
        assert gap.high < 0
        said(PAGE, f"and DPO's lie {-gap.value:.1f} nats lower ({-gap.high:.1f} to {-gap.low:.1f}")


def test_instructions_are_forgotten_a_little(dpo):
    rose = [float(run.more["aligned"]) - float(run.more["instructed"]) for run in dpo.arms[FILM]]
    said(PAGE, f"loss on unseen instructions rose a little, by {min(rose):.2f} to {max(rose):.2f} nats a token")
    assert min(rose) > 0
