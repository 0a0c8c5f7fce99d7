r"""What 06b says of the stored runs and of the published counts."""

from __future__ import annotations

from finding import printed, said

from coursekit import counts
from coursekit.comparison import costs, published
from coursekit.experiments import results
from coursekit.experiments.verdict import decide, holm
from coursekit.methods import IntrinsicSAID, LoRA
from coursekit.models import load_encoder
from coursekit.tasks import load_task

PAGE = "06b_intrinsic_dimension"


def test_the_short_runs_cannot_say_whether_100_1000_or_10000_directions_reach_ninety_per_cent():
    stored = results.read("intrinsic")
    found = {stored.difference(f"DID {d}", "full", share=0.9).verdict for d in (100, 1000, 10000)}
    assert found == {"no clear difference"}
    said(PAGE, "whether 100, 1,000 or 10,000 directions reach 90 % of full fine-tuning: each time no clear difference")
    factors = stored.difference("SAID 1000", "DID 1000")
    assert factors.verdict == "no clear difference"
    said(PAGE, f"such factors make {factors}")


def test_the_longer_run_puts_the_intrinsic_dimension_at_1000_at_most():
    methods = results.read("methods")
    enough, full = methods.difference("said", "full", share=0.9), methods.difference("said", "full")
    assert (enough.verdict, full.verdict) == ("better", "worse")
    mark = str(enough).replace("better", "better than 90 % of full fine-tuning", 1)
    said(PAGE, f"Its 1,000 numbers are {mark}, and {str(full).replace('worse', 'worse than all of it', 1)}")
    said(PAGE, f"in place of its 22.7 million weights MiniLM is {mark}, and")
    higher = methods.difference("said", "full, 600 steps", share=0.9)
    assert higher.verdict == "better"
    points = str(higher).removeprefix("better by ").replace("points", "points are left")
    said(PAGE, f"Against a mark from 600 steps of full fine-tuning {points}")
    blocks = IntrinsicSAID(d=1000, parts="all").attach(load_encoder("minilm", num_labels=2)[0])
    assert methods.parameters("said") - methods.parameters("head") == 1000
    assert round(methods.parameters("full") / 1e6, 1) == 22.7
    assert blocks.base_model.intrinsic.subspaces["default"].scales.numel() == 7


def test_the_table_keeps_its_verdicts_after_correction():
    stored, longer = results.read("intrinsic"), results.read("methods", "probe")
    asked = [(stored, f"DID {d}") for d in (100, 1000, 10000)] + [(longer, "said"), (longer, "probe")]
    marks = {arm: runs.difference(arm, "full", share=0.9) for runs, arm in asked}
    p = holm({arm: mark.p for arm, mark in marks.items()})
    verdicts = [decide(mark.low, mark.high, p[arm]) for arm, mark in marks.items()]
    assert verdicts == ["no clear difference"] * 3 + ["better"] * 2


def test_a_linear_probe_reaches_the_mark_without_moving_a_weight():
    both = results.read("methods", "probe")
    found = str(both.difference("probe", "full", share=0.9)).replace("better", "better than the mark", 1)
    said(PAGE, f"The probe of 06, {both.parameters('probe')} numbers, is {found}")
    equal = str(both.difference("said", "probe")).replace("equal", "equal to it", 1)
    said(PAGE, f"The 1,000 numbers are {equal}")
    said(PAGE, "A linear probe, which moves no weight, is equal for practical purposes")


def test_a_step_along_random_directions_is_slower_and_hardly_smaller():
    bill = costs.read()
    peaks = [f"{bill[arm].peak / 1e6:.0f}" for arm in ("said", "full")]
    said(PAGE, f"{bill['said'].step_ratio:.2f} times a step of full fine-tuning, {peaks[0]} MB in place of {peaks[1]}")


def test_lora_of_rank_1_is_better_than_1000_random_directions():
    runs = results.read("methods", "lora")
    gain, own = runs.difference("qv-r1", "said"), runs.parameters("qv-r1") - runs.parameters("head")
    assert gain.verdict == "better"
    moved = str(gain).replace("better", "better than 1,000 numbers along random directions", 1)
    assert round(own / 1000) == 9
    said(PAGE, f"LoRA of rank 1 on query and value is {moved}, with {own:,} numbers, nine times as many")
    shorter = str(gain).replace("better", "better than 1,000 random ones", 1)
    said(PAGE, f"At rank 1 it is {shorter}, with nine times as many numbers")


def test_thirteen_of_twenty_three_counts_round_to_what_is_printed():
    rows = [row for table in ("gpt3", "e2e", "glue") for row in published.rows(table)]
    given = [row for row in rows if row.exact is not None and not row.fitted]
    said(PAGE, f"{sum(row.agrees for row in given)} of {len(given)}. Neither LoRA row of GPT-2 does")
    gpt3 = [row for row in given if row.method == "LoRA" and row.model == "GPT-3"]
    assert all(row.agrees for row in gpt3)
    said(PAGE, f"GPT-3's agree: {gpt3[-1].exact / 1e6:.3f} rounds to {gpt3[-1].published}.")
    gpt2 = [row for row in given if row.method == "LoRA" and row.model.startswith("GPT-2")]
    exact, shown = (" and ".join(column) for column in zip(
        *((f"{row.exact / 1e6:.2f}", row.published) for row in gpt2), strict=True
    ))  # fmt: skip
    said(PAGE, f"{exact} million by the count, where {shown} are printed")


def test_ten_thousand_times_fewer_is_9251():
    few = LoRA(r=4).count(published.split_attention("GPT-3"))
    full = counts.full(published.config("GPT-3"), "causal")
    said(
        PAGE, f"{few / 1e6:.1f} million of {full / 1e9:.1f} billion parameters, {full / few:,.0f} times fewer"
    )


def test_the_constant_answer_of_the_picture_is_that_of_400_sentences():
    labels = load_task("film", "two").data["test"]["label"][:400]
    assert max(labels.count(0), labels.count(1)) == 216


def test_the_text_agrees_with_the_notebook_s_own_run():
    alone, score, constant = printed(
        PAGE, r"accuracy: the head alone ([\d.]+) .*?; 500 directions ([\d.]+) .*constant answer ([\d.]+)"
    )
    said(PAGE, f"500 directions and the head reach {score} on 200 sentences, the head alone {alone}")
    said(PAGE, f"the constant answer has {constant}")


def test_the_ranks_of_the_text_are_those_of_the_run():
    ranks = [
        printed(PAGE, rf"\n *{row} +(\d+) +(\d+)")
        for row in ("one random direction", "500 trained directions", "noise")
    ]
    (rank, one), (_, trained), (_, noise) = (map(int, found) for found in ranks)
    assert rank == 384 and one == noise
    half = f"half of what one random direction does takes rank {one}, as noise does"
    said(PAGE, f"{half}, and half of what the trained ones did {trained}")
    share = printed("06_lora", r"Rank 8 keeps (\d+)% \(true labels\)")[0]
    said(PAGE, f"In 06 rank 8 kept {share} % of what full fine-tuning did")
