r"""What 06b says of the stored runs and of the published counts."""

import re

import torch
from finding import ROOT, once_beside, printed, read, said

from coursekit.comparison import costs, published
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.experiments.verdict import decide, holm
from coursekit.methods import IntrinsicSAID, LoRA
from coursekit.models import load_encoder
from coursekit.tasks import load_task

PAGE = "06b_intrinsic_dimension"


def verdicts(marks: dict[int, Difference]) -> list[str]:
    r"""Adjusted for as many comparisons as there are."""
    p = holm({name: mark.p for name, mark in marks.items()})
    return [decide(mark.low, mark.high, p[name]) for name, mark in marks.items()]


def test_in_the_short_runs_ten_directions_miss_the_mark():
    stored, tried = results.read("intrinsic"), (10, 100, 1000, 10000)
    marks = {d: stored.difference(f"DID {d}", "full", share=0.9) for d in tried}
    assert verdicts(marks) == ["worse", *["no clear difference"] * 3]
    said(PAGE, "In the short runs ten directions miss the mark of 90 %; from 100 on there is no clear difference.")
    best = stored.accuracy("full")
    assert stored.accuracy("DID 100").value < 0.9 * best.value < stored.accuracy("DID 1000").value
    tenfold = {d: stored.difference(f"DID {10 * d}", f"DID {d}") for d in tried[:-1]}
    assert verdicts(tenfold) == [*["better"] * 2, "no clear difference"]
    assert any('"Short runs: accuracy grows with the directions up to 1,000."' in c.source for c in read(PAGE).cells)


def test_what_the_short_runs_move():
    card = " ".join((ROOT / "data/evidence/intrinsic.md").read_text(encoding="utf-8").split())
    assert "`full`: all weights of the blocks and the head" in card
    assert {results.read("intrinsic").steps(arm) for arm in ("DID 1000", "full")} == {200}
    said(PAGE, "your $F$ moves the 10.6 million weights of MiniLM's blocks, for 200 steps.")


def test_the_longer_run_puts_the_intrinsic_dimension_at_1000_at_most():
    methods = results.read("methods")
    enough, ahead = methods.difference("said", "full", share=0.9), methods.difference("full", "said")
    assert (enough.verdict, ahead.verdict) == ("better", "better")
    mark = str(enough).replace("better", "better than 90 % of full fine-tuning", 1)
    said(PAGE, f"$d_{{90}}$ is at most 1,000 here: with the head, so many numbers are {mark}.")
    said(PAGE, f"Full fine-tuning stays ahead of the 1,000 numbers, {str(ahead).removeprefix('better ')}.")
    said(PAGE, f"With 1,000 numbers and the head in place of its 22.7 million weights MiniLM is {mark}.")
    blocks = IntrinsicSAID(d=1000, parts="all").attach(load_encoder("minilm", num_labels=2)[0])
    assert methods.parameters("said") - methods.parameters("head") == 1000
    assert round(methods.parameters("full") / 1e6, 1) == 22.7
    assert blocks.base_model.intrinsic.subspaces["default"].scales.numel() == 7
    assert hasattr(blocks.get_submodule("bert.pooler.dense"), "base_layer")
    assert methods.steps("said") == 300
    said(PAGE, "1,000 numbers, seven of them scales (structure-aware, SAID), move all 22.7 million weights, "
               "for 300 steps.")  # fmt: skip
    assert not any(once_beside(methods, arm) for arm in ("said", "head", "full"))


def test_the_table_keeps_its_verdicts_after_correction():
    longer = results.read("methods", "probe")
    marks = {arm: longer.difference(arm, "full", share=0.9) for arm in ("said", "head", "probe")}
    assert verdicts(marks) == ["better", "worse", "better"]
    assert printed(PAGE, r"adjusted for these (\d) comparisons") == (str(len(marks)),)


def test_a_linear_probe_reaches_the_mark_without_moving_a_weight():
    both = results.read("methods", "probe")
    mark = both.difference("probe", "full", share=0.9)
    assert mark.verdict == "better"
    found = str(mark).replace("better", "better than the mark", 1)
    said(PAGE, f"The probe moves no weight and is {found}")
    assert both.difference("said", "probe").verdict == "equal for practical purposes"
    said(PAGE, "the 1,000 numbers are equal to it for practical purposes")
    said(PAGE, "A linear probe, which moves no weight, equals them for practical purposes")


def test_a_step_along_random_directions_is_slower_and_hardly_smaller():
    bill = costs.read()
    own, full = bill["said"], bill["full"]
    assert own.step_ratio > 1.2 and 0.95 < own.peak / full.peak < 1
    assert "parts='all'" in own.settings and own.trained == 1000
    said(PAGE, "A step is slower and hardly saves memory: with 1,000 numbers in place of all weights "
               f"([card](../data/evidence/comparison.md)) it takes {own.step_ratio:.2f} times full fine-tuning's time, "
               f"and {own.peak / 1e6:.0f} MB in place of {full.peak / 1e6:.0f}.")  # fmt: skip


def test_the_paper_counts_deberta_s_lora_twice():
    (row,) = (row for row in published.rows("glue") if (row.model, row.method) == ("DeBERTa XXL", "LoRA"))
    assert (row.published, row.setting, row.exact) == ("4.7", 8, 48 * 2 * 8 * 2 * 1536)
    assert not row.fitted and round(float(row.published) / (row.exact / 1e6), 1) == 2
    said(PAGE, f"Hu et al. print {row.published} million for DeBERTa XXL: 48 layers, hidden and kv are 1,536, "
               f"rank {row.setting}")  # fmt: skip
    said(PAGE, f"Table 10's rank {row.setting} trains {row.exact / 1e6:.2f} million, half of what they print.")


def test_rank_1_on_the_matrices_of_section_2():
    encoder = load_encoder("minilm", num_labels=2)[0]
    moved = [W.shape for name, W in encoder.named_parameters() if name.endswith(("query.weight", "value.weight"))]
    assert moved == [(384, 384)] * 12
    assert LoRA(r=1).count(encoder.config) == 12 * (384 + 384) == 9216
    said(PAGE, "Section 2's 500 directions move twelve matrices of 384 × 384.")
    said(PAGE, "rank 1 trains $12\\cdot(384+384)=9{,}216$ numbers")


def test_the_constant_answer_of_the_picture_is_that_of_400_sentences():
    labels = load_task("film", "two").data["test"]["label"][:400]
    assert max(labels.count(0), labels.count(1)) == 216


def test_the_text_agrees_with_the_notebook_s_own_run():
    alone, score, constant = printed(
        PAGE, r"accuracy: the head alone ([\d.]+) .*?; 500 directions ([\d.]+) .*constant answer ([\d.]+)"
    )
    assert alone == constant
    said(PAGE, f"In this run 500 directions and the head reach {score}, the head alone the constant answer's {alone}; "
               "the intervals overlap")  # fmt: skip
    high, low = map(float, printed(PAGE, r"head alone [\d.]+ \([\d.]+–([\d.]+), .*?directions [\d.]+ \(([\d.]+)–"))
    assert low < high


def test_no_factors_of_rank_2_give_the_product_that_the_slide_prints():
    slide = torch.tensor([[4.00, 2.01, 3.01], [3.01, 0.98, 4.02], [2.01, 1.00, 3.01]], dtype=torch.float64)
    W = torch.tensor([[4, 2, 3], [3, 1, 4], [2, 1, 3]], dtype=torch.float64)
    off = (slide - W).abs().max().item()
    said(PAGE, f"prints a product within {off:.2f} of $W$ everywhere")
    assert torch.linalg.svdvals(slide)[2] > 0.25, "the product itself has rank 3"
    r, away = printed(PAGE, r"rank (\d) keeps 98% of W's squared length; the nearest matrix of that rank is ([\d.]+)")
    assert (r, away) == ("2", f"{torch.linalg.svdvals(W)[2]:.2f}") and (slide - W).norm() < 3 * 0.02 < float(away)
    said(PAGE, f"$W$ has rank 3: the nearest matrix of rank 2 is {away} away, the slide's product at most 0.06 (nine "
               "entries, each within 0.02). So no factors of rank 2 give it.")  # fmt: skip


def test_the_ranks_of_the_text_are_those_of_the_run():
    (cell,) = (cell for cell in read(PAGE).cells if '"one random direction": one' in cell.source)
    (alt,) = (o.metadata["image/png"]["alt"] for o in cell.outputs if "image/png" in o.get("data", {}))
    (half,) = re.findall(r"half is kept at rank: (.*?)\. x: ", alt)
    one, noise, *_ = (int(found.rsplit(" ", 1)[1]) for found in half.split(", "))
    (ranks,) = printed(PAGE, r"ranks: \{('one random.*?)\}")
    full, _, product, both = map(int, re.findall(r"\d+", ranks))
    assert (full, product, both) == (384, 8, 16) and one == noise
    said(PAGE, f"two of rank {product} add up to rank {both}")
    said(PAGE, f"half of what one random direction does takes rank {one}, as noise does.")
