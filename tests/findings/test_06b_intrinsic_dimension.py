r"""What 06b says of the stored runs and of the published counts."""

import re

import torch
from finding import once_beside, printed, read, said

from coursekit.comparison import costs, published
from coursekit.experiments import results
from coursekit.methods import LoRA
from coursekit.models import load_encoder

PAGE = "06b_intrinsic_dimension"
EQUAL = "equal for practical purposes"


def test_where_the_intrinsic_dimension_lies():
    stored, tried = results.read("directions", "probe"), (10, 100, 300, 1000, 3000, 10_000)
    asked = {"head": "head"} | {d: f"DID {d}" for d in tried} | {"probe": "probe"}
    marks = stored.paired({name: stored.difference(arm, "full", share=0.9) for name, arm in asked.items()})
    assert [mark.verdict for mark in marks.values()] == [*["worse"] * 3, EQUAL, *["better"] * 4]
    assert printed(PAGE, r"Adjusted for these (\d) comparisons") == (str(len(marks)),)
    said(PAGE, "$d_{90}$ lies between 100 and 1,000 here. 100 directions are worse than the mark, 90 % of full "
               "fine-tuning, 1,000 are better; 300 are equal to it for practical purposes.")  # fmt: skip
    said(PAGE, "The probe is better than it too, and equal to 1,000 directions for practical purposes")
    passing = '"Between 100 and 1,000 directions the accuracy passes 90 % of full fine-tuning\'s."'
    assert any(passing in c.source for c in read(PAGE).cells)
    said(PAGE, "Between 100 and 1,000 random directions, with the head, bring MiniLM to 90 % of full fine-tuning's "
               "accuracy")  # fmt: skip


def test_what_stays_ahead_of_directions_and_what_equals_them():
    stored = results.read("directions", "probe")
    thousand, most = (stored.difference("full", f"DID {d}") for d in (1000, 10_000))
    assert (thousand.verdict, most.verdict) == ("better", "better")
    said(PAGE, f"Full fine-tuning stays ahead, of 1,000 directions {str(thousand).removeprefix('better ')}, of 10,000 "
               f"{str(most).removeprefix('better ')}.")  # fmt: skip
    said(PAGE, f"10,000 stay {100 * most.value:.1f} points behind it.")
    assert stored.difference("DID 1000", "probe").verdict == EQUAL
    said(PAGE, "A linear probe, which moves no weight, equals 1,000 for practical purposes.")
    ahead = stored.difference("DID 10000", "probe")
    assert ahead.verdict == "better" and stored.difference("DID 3000", "probe").verdict == EQUAL
    said(PAGE, f"10,000 are better than the probe, {str(ahead).removeprefix('better ')}.")


def test_what_the_stored_runs_move():
    stored = results.read("directions")
    arms = ("head", "full", *(f"DID {d}" for d in (10, 100, 300, 1000, 3000, 10_000)))
    assert {(stored.steps(arm), len(stored.seeds(arm))) for arm in arms} == {(300, 5)}
    assert not any(once_beside(stored, arm) for arm in arms)
    assert stored.parameters("DID 300") - stored.parameters("head") == 300
    encoder = load_encoder("minilm", num_labels=2)[0]
    inside = sum(p.numel() for n, p in encoder.named_parameters() if ".layer." in n)
    said(PAGE, f"your $F$ moves the {inside / 1e6:.1f} million weights of MiniLM's blocks and the head trains too, for "
               "300 steps of 16 film sentences, five seeds")  # fmt: skip
    said(PAGE, "The head reads the first token's vector; the rival")
    assert torch.equal(encoder.bert.pooler(torch.eye(384)[None]), encoder.bert.pooler(torch.eye(384)[None, :1]))


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
    said(PAGE, f"Hu et al. print {row.published} million for DeBERTa XXL: 48 layers, hidden and kv are 1,536, query "
               f"and value, and in their Table 10 rank {row.setting}. Can both be right?")  # fmt: skip
    said(PAGE, f"Nor can both be right: rank {row.setting} trains {row.exact / 1e6:.2f} million. Their script for MNLI "
               f"has rank 16, which trains {2 * row.exact / 1e6:.2f} million.")  # fmt: skip


def test_rank_1_on_the_matrices_of_section_2():
    encoder = load_encoder("minilm", num_labels=2)[0]
    moved = [W.shape for name, W in encoder.named_parameters() if name.endswith(("query.weight", "value.weight"))]
    assert moved == [(384, 384)] * 12
    assert LoRA(r=1).count(encoder.config) == 12 * (384 + 384) == 9216
    said(PAGE, "Section 2's 500 directions move twelve matrices of 384 × 384.")
    said(PAGE, "rank 1 trains $12\\cdot(384+384)=9{,}216$ numbers")
    said(PAGE, "on the same matrices rank 1 trains 9,216, 500 directions 500.")


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
