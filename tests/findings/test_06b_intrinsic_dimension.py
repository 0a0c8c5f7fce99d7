r"""What 06b says of the stored runs and of the published counts."""

import re

import torch
from finding import ROOT, once_beside, printed, read, said

from coursekit import counts
from coursekit.comparison import costs, published
from coursekit.experiments import results
from coursekit.experiments.verdict import decide, holm
from coursekit.methods import IntrinsicSAID, LoRA
from coursekit.models import load_encoder
from coursekit.tasks import load_task

PAGE = "06b_intrinsic_dimension"


def test_in_the_short_runs_ten_directions_miss_the_mark():
    stored = results.read("intrinsic")
    marks = {d: stored.difference(f"DID {d}", "full", share=0.9) for d in (10, 100, 1000, 10000)}
    assert {marks[d].verdict for d in (100, 1000, 10000)} == {"no clear difference"}
    assert marks[10].verdict == "worse"
    said(PAGE, "In the short runs ten directions miss the mark of 90 %; from 100 on there is no clear difference.")
    best = stored.accuracy("full")
    assert stored.accuracy("DID 100").value < 0.9 * best.value < stored.accuracy("DID 1000").value


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
    stored, longer = results.read("intrinsic"), results.read("methods", "probe")
    asked = [(stored, f"DID {d}") for d in (10, 100, 1000, 10000)] + [
        (longer, arm) for arm in ("said", "head", "probe")
    ]
    marks = {arm: runs.difference(arm, "full", share=0.9) for runs, arm in asked}
    p = holm({arm: mark.p for arm, mark in marks.items()})
    verdicts = [decide(mark.low, mark.high, p[arm]) for arm, mark in marks.items()]
    assert verdicts == ["worse", *["no clear difference"] * 3, "better", "worse", "better"]


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
    said(PAGE, f"let 1,000 numbers train in place of all {full.trained / 1e6:.1f} million weights")
    said(PAGE, "With 1,000 numbers in place of all weights a step is slower and hardly saves memory: "
               f"{own.step_ratio:.2f} times full fine-tuning's time, {own.peak / 1e6:.0f} MB "
               f"in place of {full.peak / 1e6:.0f}.")  # fmt: skip


def test_seventeen_of_twenty_five_counts_round_to_what_is_printed():
    rows = [row for table in ("gpt3", "e2e", "glue") for row in published.rows(table)]
    given = [row for row in rows if row.exact is not None and not row.fitted]
    off = {(r.model, r.method): abs(r.exact / 1e6 / float(r.published) - 1) for r in given if not r.agrees}
    worst = ("DeBERTa XXL", "LoRA")
    assert 0.49 < off.pop(worst) < 0.51
    said(PAGE, f"Of {len(given)} counts in the paper's Tables 2–4 that need no guessed setting "
               f"{len(given) - len(off) - 1} agree, rounded.")  # fmt: skip
    said(PAGE, "Hu et al. print 4.7 million for DeBERTa XXL: 48 layers, hidden and kv are 1,536, rank 8")
    (deberta,) = (row for row in given if (row.model, row.method) == worst)
    assert round(float(deberta.published) / (deberta.exact / 1e6), 1) == 2
    assert (deberta.published, deberta.setting, deberta.exact) == ("4.7", 8, 48 * 2 * 8 * 2 * 1536)
    assert max(off.values()) < 0.13
    said(PAGE, f"it is twice what Table 10's rank {deberta.setting} gives.")
    assert {row.source.split(", ")[-1] for row in given} == {"Table 2", "Table 3", "Table 4"}


def test_ten_thousand_times_fewer_is_9251():
    few, config = LoRA(r=4).count(published.split_attention("GPT-3")), published.config("GPT-3")
    full = counts.full(config, "causal")
    said(PAGE, f"On GPT-3 $r=4$ trains {few / 1e6:.1f} million of {full / 1e9:.1f} billion parameters, "
               f"{full / few:,.0f} times fewer; the abstract says 10,000.")  # fmt: skip
    layers, hidden = config.num_hidden_layers, config.hidden_size
    assert layers * 2 * 4 * 2 * hidden == few


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
    (cell,) = (cell for cell in read(PAGE).cells if "\nprinted = torch.tensor(" in cell.source)
    W, product = (
        torch.tensor([[*map(float, re.findall(r"[\d.]+", row))] for row in found.split("], [")], dtype=torch.float64)
        for found in re.search(r"\nW, M = torch.tensor\((.*?)\), torch.*?\nprinted = torch.tensor\((.*?)\)\n",
                               cell.source, re.DOTALL).groups()
    )  # fmt: skip
    said(PAGE, f"prints a product within {(product - W).abs().max():.2f} of $W$ everywhere")
    first, away = printed(PAGE, r"first row: \[(.*?)\]; third singular value of the printed one: ([\d.]+)")
    row = first.replace("'", "")
    said(PAGE, f"The slide's factors multiply to {row} in the first row, and no others give its product: "
               f"the nearest matrix of rank 2 is {away} away, the third singular value.")  # fmt: skip


def test_the_ranks_of_the_text_are_those_of_the_run():
    (cell,) = (cell for cell in read(PAGE).cells if '"one random direction": one' in cell.source)
    (alt,) = (o.metadata["image/png"]["alt"] for o in cell.outputs if "image/png" in o.get("data", {}))
    (half,) = re.findall(r"half is kept at rank: (.*?)\. x: ", alt)
    one, noise, *_ = (int(found.rsplit(" ", 1)[1]) for found in half.split(", "))
    (ranks,) = printed(PAGE, r"rank: \{(.*?)\}")
    full, _, product, both = map(int, re.findall(r"\d+", ranks)[-4:])
    assert (full, product, both) == (384, 8, 16) and one == noise
    said(PAGE, f"two of rank {product} add up to rank {both}")
    said(PAGE, f"half of what one random direction does takes rank {one}, as noise does.")
