r"""What 00 says of the stored runs, and of its own."""

from __future__ import annotations

import csv
import math

import pytest
from finding import printed, said

from coursekit.experiments import results
from coursekit.experiments.results import Results
from coursekit.paths import DATA
from coursekit.tasks import load_task

PAGE = "00_training_cycle"
SAME_TEN = "LoRA on the prompt's 10"
NUMBER = r"\s+([+-]?[\d.]+)"


@pytest.fixture(scope="module")
def context() -> Results:
    return results.read("in_context")


def test_a_thousand_examples_in_training_beat_every_prompt(context):
    prompts = [f"{n} shots" for n in (0, 1, 2, 5, 10)]
    best = max(prompts, key=lambda arm: context.accuracy(arm).value)
    ten, five = (context.difference("LoRA on 1000", arm) for arm in ("10 shots", "5 shots"))
    assert best == "5 shots" and (ten.verdict, five.verdict) == ("better", "better")
    said(PAGE, f"They are {ten} than ten in the prompt. Than five, the best prompt, they are {five}")
    said(PAGE, f"A thousand in training are {ten} than ten in the prompt")
    assert printed(PAGE, r"1,000 minus 5 examples, points: ([^\n]+)") == (str(five.in_points()),)


def test_with_the_same_ten_there_is_no_clear_difference(context):
    arms = ["0 shots", "1 shots", "5 shots", SAME_TEN, "LoRA on 10", "LoRA on 100", "LoRA on 1000"]
    assert context.differences(arms, "10 shots")[SAME_TEN].verdict == "no clear difference"
    same, prompt, other = (context.accuracy(arm).value for arm in (SAME_TEN, "10 shots", "LoRA on 10"))
    said(PAGE, f"training scores {same:.2f} and the prompt {prompt:.2f}")
    said(PAGE, f"trained on another ten, the model scores {other:.2f}")


def test_the_commonest_grade():
    grades = load_task("film", "five").data["test"]["label"][:300]
    said(PAGE, f"and the commonest grade {max(map(grades.count, set(grades))) / 300:.2f}; 300 test sentences")


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


def scores(state: str) -> tuple[str, ...]:
    r"""Loss, answers in the right form, right answers; loss at the end token, and before it."""
    loss, end, before, form, right = printed(PAGE, rf"{state}{3 * NUMBER}\s+(\d) of 8\s+(\d) of 7")
    return loss, form, right, end, before


def test_this_run_of_instruction_tuning():
    before, after = scores("as released"), scores("instructed")
    assert float(before[0]) > float(after[0])
    said(PAGE, f"{before[1]} of 8 answers had the form that was asked for before, and {after[1]} after;")
    said(PAGE, f"{before[2]} of 7 were right before, and {after[2]} after")
    said(PAGE, f"The loss on unseen answers fell from {before[0]} to {after[0]}")
    said(PAGE, f"at the end token alone from {before[3]} to {after[3]}")
    said(PAGE, f"and brought the loss on unseen ones from {before[0]} to {after[0]}")


def test_this_run_of_dpo():
    film, product = (
        printed(PAGE, rf"{d} reviews\s+(\d+) of 12\s+\d+ of 12{3 * NUMBER}") for d in ("film", "product")
    )
    said(PAGE, f"positive for {film[0]} of 12 film pairs and {product[0]} of 12 product pairs")
    assert printed(PAGE, r"film reviews\s+\d+ of 12\s+(\d+) of 12") == ("6",)
    assert int(*printed(PAGE, r"product reviews\s+\d+ of 12\s+(\d+) of 12")) > 6
    assert float(film[1]) > 0 > float(film[2]) and float(product[1]) < 0 and float(product[2]) < 0
    said(PAGE, f"the mean of the chosen sentences rose by {film[1].removeprefix('+')} nats")
    said(PAGE, f"The rejected ones became much less likely ({film[2].replace('-', '−')})")
    fall = float(product[1].removeprefix("-"))
    said(
        PAGE,
        f"the chosen by {fall} nats, a factor of {math.exp(fall):.0f}, and the margin is still {product[3]}",
    )
    said(PAGE, f"the chosen sentences became less likely (−{fall} nats) while the margin rose")
    form, before = scores("aligned")[1], scores("instructed")[1]
    assert form < before
    said(PAGE, f"{form} of the 8 instructions are answered in the right form, {before} before")
    loss, earlier = scores("aligned")[0], scores("instructed")[0]
    assert float(loss) > float(earlier)
    said(PAGE, f"the loss on unseen answers rose from {earlier} to {loss}")
