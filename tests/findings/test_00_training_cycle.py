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


def test_a_thousand_examples_in_training_beat_ten_in_the_prompt(context):
    ten = context.difference("LoRA on 1000", "10 shots")
    assert ten.verdict == "better"
    said(PAGE, f"A thousand examples in training are {ten} than ten in the prompt")
    said(PAGE, f"a thousand in training are {ten} than ten of them")


def test_with_the_same_ten_there_is_no_clear_difference(context):
    others = [f"{n} shots" for n in (0, 1, 2, 5)] + [SAME_TEN] + [f"LoRA on {n}" for n in (10, 100, 1000)]
    assert context.differences(others, "10 shots")[SAME_TEN].verdict == "no clear difference"
    assert len(others) == 8
    assert context.difference(SAME_TEN, "10 shots").low > 0  # alone its interval leaves out 0
    said(PAGE, "corrected for the eight it is no clear difference")
    said(PAGE, f"another ten score {context.accuracy('LoRA on 10').value:.3f}")
    assert context.accuracy(SAME_TEN).value > context.accuracy("10 shots").value
    same, other = context.difference(SAME_TEN, "10 shots"), context.difference(SAME_TEN, "LoRA on 10")
    assert other.value > same.value
    said(PAGE, "Which ten they are matters as much")


def test_the_table_is_that_of_the_stored_runs(context):
    names = {SAME_TEN: "LoRA on the same ten", "LoRA on 10": "LoRA on another ten"}
    names["LoRA on 1000"] = "LoRA on a thousand"
    others = [arm for arm in context.arms if arm not in ("10 shots", "constant")]
    found = context.differences(others, "10 shots")
    assert len(others) == 8
    said(PAGE, f"| ten in the prompt | {context.accuracy('10 shots')} | – | – |")
    for arm, name in names.items():
        said(PAGE, f"| {name} | {context.accuracy(arm)} | {found[arm].in_points()} | {found[arm].verdict} |")


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


def test_this_run_of_instruction_tuning():
    before, after = (printed(PAGE, rf"{state}{3 * NUMBER}") for state in ("as released", "instructed"))
    said(PAGE, f"the loss on unseen answers fell from {before[0]} to {after[0]}")
    said(PAGE, f"most at the end token, from {before[1]} to {after[1]}")
    said(PAGE, f"brought the loss on unseen ones from {before[0]} to {after[0]}, most at the end token")
    loss, end, others = (float(b) - float(a) for b, a in zip(before, after, strict=True))
    assert end > loss > others > 0


def test_this_run_of_dpo():
    film, product = (
        printed(PAGE, rf"{d} reviews\s+(\d+) of 12\s+\d+ of 12{3 * NUMBER}") for d in ("film", "product")
    )
    said(PAGE, f"positive for {film[0]} of 12 film pairs and {product[0]} of 12 product pairs")
    assert printed(PAGE, r"film reviews\s+\d+ of 12\s+(\d+) of 12") == ("6",)
    assert int(*printed(PAGE, r"product reviews\s+\d+ of 12\s+(\d+) of 12")) > 6
    assert float(film[1]) > 0 > float(film[2]) and float(product[1]) < 0 and float(product[2]) < 0
    said(PAGE, f"the mean of the chosen sentences rose by {film[1].removeprefix('+')} nats")
    fall = float(product[1].removeprefix("-"))
    said(
        PAGE,
        f"the chosen by {fall} nats, a factor of {math.exp(fall):.0f}, and the margin is still {product[3]}",
    )
    said(PAGE, f"the chosen product sentences became less likely (−{fall} nats) while the margin rose ({product[3]})")
    said(PAGE, f"and the chosen film sentences gained {film[1].removeprefix('+')}")
