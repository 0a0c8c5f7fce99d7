r"""What 06 says of the stored runs, and of its own."""

import re

import pytest
import torch
from finding import once_beside, printed, read, said, tenths, tied

from coursekit import methods
from coursekit.checks import lora_train, practice
from coursekit.comparison import costs
from coursekit.experiments import results
from coursekit.experiments.results import Results, few
from coursekit.experiments.verdict import MARGIN
from coursekit.models import load_encoder
from coursekit.paths import DATA
from coursekit.tasks import load_task

PAGE = "06_lora"


@pytest.fixture(scope="module")
def lora() -> Results:
    r"""As the notebook reads it: three files of one setting, full fine-tuning for 600 steps at the second tied rate."""
    return results.read("lora", "methods", "probe").at("full", 1e-4)


@pytest.fixture(scope="module")
def every() -> Results:
    r"""All their runs, those of full fine-tuning's other rates too."""
    return results.read("lora", "methods", "probe")


LONGER = "qv-r8-tuned-at-600, 600 steps", "full, 600 steps"
TIED = LONGER[0], "full-tuned-at-600, 600 steps"  # at the other rate; the tie's test
RANKS = ("qv-r64", "qv-r8"), ("qv-r8", "qv-r1")
FEWER, *PLACES = ("lora-all-linear", "lora"), ("all-r8", "attention-r18"), ("all-r8", "mlp-r14")
RELATIVES = ("dora", "lora"), ("vera", "lora"), ("oft", "lora")
STARTS = tuple((f"all-r8-{init}", "all-r8") for init in ("pissa", "olora", "eva"))
PROBE = ("lora", "probe"), ("full", "probe")
ASKED = ("lora-all-linear", "full"), ("lora", "full"), LONGER, PROBE[0]
VARIANTS = *RANKS, FEWER, *PLACES, *RELATIVES, *STARTS
EQUAL = "equal for practical purposes (within 3 points)"


def test_the_verdicts_of_both_tables(lora):
    first, second = (lora.pairs({str(pair): pair for pair in asked}) for asked in (ASKED, VARIANTS))
    unclear, equal = "no clear difference", EQUAL.partition(" (")[0]
    assert [row[-1] for row in first.rows] == ["worse", *[equal] * 2, "better"]
    assert [row[-1] for row in second.rows] == [*[equal] * 8, *[unclear] * 3]
    assert printed(PAGE, r"Holm's adjustment for (\d+) comparisons") == (str(len(first.rows)),)
    assert printed(PAGE, r"As above, with (\d+) comparisons") == (str(len(second.rows)),)


def card_row(arm: str) -> str:
    r"""What the card says of `arm`."""
    card = (DATA / "evidence" / "lora.md").read_text(encoding="utf-8")
    return re.search(rf"^\| {re.escape(arm)} \|.*$", card, re.MULTILINE).group()


def test_what_was_trained_and_tested(lora, every):
    arms = {arm for pair in (*ASKED, *VARIANTS) for arm in pair} - {"probe"}
    (sentences,) = {len(run.correct) for arm in arms for run in lora.arms[arm]}
    more = {"full", "lora", "lora-all-linear", "dora", "vera", "oft"}  # those of notebook 10's table
    assert all(len(lora.arms[arm]) == (5 if arm in more else 3) for arm in arms)
    assert {lora.steps(arm) for arm in arms if not arm.endswith("600 steps")} == {300}
    card = (DATA / "evidence" / "lora.md").read_text(encoding="utf-8")
    batch, *_, seen = re.search(r"batches of (\d+); 300 steps are (\S+) of the ([\d,]+) training", card).groups()
    passes = 300 * int(batch) / int(seen.replace(",", ""))
    said(PAGE, f"two classes: 300 steps of {batch} sentences ({passes:.2f} of a pass), three or five seeds, every "
               f"learning rate tuned, {sentences:,} test sentences. LoRA has $r=8$ unless said")  # fmt: skip
    said(PAGE, "we set $\\alpha=2r$, and tune the learning rate")
    searched = {arm for arm in arms if not arm.endswith("600 steps")}
    assert not any(once_beside(every, arm) for arm in searched)
    assert {lora.parameters(f"all-r8-{init}") for init in ("pissa", "olora")} == {lora.parameters("all-r8")}
    assert lora.parameters("qv-r8") == 12 * 8 * (384 + 384) + 770  # two matrices in each of six blocks, and the head


def test_the_margin_is_half_of_what_there_is_to_gain(lora):
    gain = lora.difference("full", "probe")
    assert round(100 * gain.value) == 2 * round(100 * MARGIN)
    card = (DATA / "evidence" / "lora.md").read_text(encoding="utf-8")
    (every,) = re.search(r"of the ([\d,]+) training sentences", card).groups()
    assert len(load_task("film", "two").data["train"]) == int(every.replace(",", ""))
    said(PAGE, f"on the mean of the frozen model's tokens, fitted on all {every} sentences")


def test_all_linear_is_in_the_blocks(lora):
    ours = methods.LoRA(r=8, targets="all-linear").attach(load_encoder("minilm", num_labels=2)[0])
    assert methods.trainable(ours) == lora.parameters("all-r8") == 6 * 8 * (4 * (384 + 384) + 2 * (384 + 1536)) + 770
    trained = [name for name, p in ours.named_parameters() if p.requires_grad and "classifier" not in name]
    assert all(".layer." in name for name in trained)


def test_lora_on_query_and_value_equals_full_fine_tuning(lora):
    r"""Adjusted verdicts: the tables' test."""
    everywhere, fewer, longer = (lora.difference(*pair) for pair in (*ASKED[:2], LONGER))
    points, wide = (found.in_points().replace(" (", " points (") for found in (fewer, everywhere))
    assert str(fewer) == str(longer) == EQUAL
    assert {lora.steps(arm) for arm in LONGER} == {600} and {lora.steps(arm) for arm in ASKED[1]} == {300}
    said(PAGE, "LoRA on query and value equals full fine-tuning for practical purposes, after 300 steps, "
               f"{points}, as after 600. On all linear layers it is worse, only just: {wide}, "
               f"p = {everywhere.p:.3f}.")  # fmt: skip
    said(PAGE, f"LoRA on query and value equals full fine-tuning for practical purposes, {points}; on all linear "
               f"layers it is worse, only just {wide.partition('points ')[2]}.")  # fmt: skip
    said(PAGE, "What we do not know: whether this holds for larger models and harder tasks")
    assert round(1e3 * lora.parameters("qv-r8") / lora.parameters("full")) == 3
    said(PAGE, "LoRA on query and value trains 0.3 % of the parameters")


def test_at_either_tied_rate_of_full_fine_tuning_at_600_steps_lora_is_equal(lora, every):
    rates = [lora.rate(TIED[1]), lora.rate(LONGER[1])]
    assert tied(lora, TIED[1].partition(",")[0], 600) == rates == [3e-5, every.rate("full")] == [3e-5, 1e-4]
    assert tied(every, "full", 600) == rates  # searched anew with the other methods
    assert str(lora.difference(*TIED)) == str(lora.difference(*LONGER)) == EQUAL
    assert lora.accuracy(LONGER[1]).value > lora.accuracy(TIED[1]).value, "the stricter one stands in the table"
    row = r"query and value − full fine-tuning, 600 steps +([\d.]+) +([\d.]+)"
    assert printed(PAGE, row) == tuple(f"{lora.accuracy(arm).value:.4f}" for arm in LONGER)


def test_it_is_ahead_of_a_linear_probe(lora):
    found = lora.difference(*PROBE[0])
    gain = str(found).removeprefix("better ")
    said(PAGE, f"On query and value LoRA beats a linear probe {gain}.")


def test_ranks_and_places_are_equal_for_practical_purposes(lora):
    assert {str(lora.difference(*pair)) for pair in (*RANKS, FEWER, *PLACES)} == {EQUAL}
    said(PAGE, "Place and rank matter little here. For practical purposes (within 3 points) ranks 1 and 64 equal rank "
               "8, and attention alone, the MLP alone, and query and value equal all linear layers.")  # fmt: skip
    assert all(lora.parameters(arm) == pytest.approx(330_000, rel=0.03) for pair in PLACES for arm in pair)
    assert lora.parameters("qv-r8") < lora.parameters("all-r8") / 4


def test_little_data_needs_little_rank():
    runs = results.read("data_size")
    few_rows = runs.difference(few("r=1", 128), few("full", 128))
    low, high = (runs.difference(few(f"r={r}", 1024), few("full", 1024)) for r in (1, 64))
    assert few_rows.verdict == high.verdict == "equal for practical purposes"
    said(PAGE, "With 128 sentences rank 1 equals full fine-tuning for practical purposes; with 1,024 it is "
               f"{tenths(low)}, where rank 64 is equal.")  # fmt: skip
    assert low.verdict == "worse"


def test_relatives_of_lora_bring_no_gain(lora):
    assert {str(lora.difference(*pair)) for pair in RELATIVES} == {EQUAL}
    said(PAGE, "LoRA's relatives bring no gain here. DoRA (the lengths of $W$'s rows train too), VeRA and OFT equal it "
               "for practical purposes; PiSSA, OLoRA and EVA, which start $A$ and $B$ elsewhere, show no clear "
               "difference.")  # fmt: skip
    assert all(lora.difference(*pair).value < 0 for pair in STARTS)  # adjusted verdicts: the tables' test


def test_its_best_learning_rate_is_ten_times_that_of_full_fine_tuning_or_more(lora, every):
    ranks = "qv-r1", "qv-r8", "qv-r64"
    pairs = *((arm, "full") for arm in (*ranks, "all-r8", "attention-r18", "mlp-r14")), LONGER
    assert not any(once_beside(every, arm) for arm in ("full", *ranks))  # the rates beside the best have all seeds
    assert min(lora.rate(one) / lora.rate(full) for one, full in pairs) == pytest.approx(10)
    said(PAGE, "At least ten times higher.")
    assert lora.rate("all-r8") / lora.rate("full") == pytest.approx(10)
    said(PAGE, "$r=8$, $\\alpha=2r$ and about ten times full fine-tuning's learning rate, as Schulman et al. find too")


def test_what_a_step_costs_is_what_was_measured():
    full, lora, everywhere = (costs.read()[arm] for arm in ("full", "lora", "lora-all-linear"))
    peaks = [f"{row.peak / 1e6:.0f}" for row in (full, lora)]
    said(PAGE, f"At the peak {peaks[0]} MB become {peaks[1]}, a factor of {full.peak / lora.peak:.1f}")
    said(PAGE, f"on query and value a step of MiniLM peaked at {peaks[1]} MB in place of {peaks[0]}.")
    assert full.activations > lora.activations > 0.7 * full.activations
    said(PAGE, "Most activations stay, for the gradient passes through every frozen block.")
    assert lora.peak < everywhere.peak  # that they are equal in accuracy: `FEWER`
    said(PAGE, f"On query and value a step is {1 / lora.step_ratio:.1f} times as fast: only")
    assert abs(full.step_ratio - 1) < (1 - lora.step_ratio) / 5  # timed again, full fine-tuning is off by this much
    printed(PAGE, rf"\nLoRA, query and value +74,498 +{peaks[1]} +[\d.]+ +{lora.step_ratio:.2f}\n")
    assert round(134_515_008 / full.trained) == 6
    said(PAGE, "so we take MiniLM, six times smaller.")
    assert {(row.device, row.threads) for row in (full, lora, everywhere)} == {("AMD EPYC", 1)}
    said(PAGE, "Measured in float32, for one step of MiniLM on 16 sentences on one CPU thread")


# The notebook's own run ------------------------------------------------------------------------------------


def test_the_prompt_names_none_of_the_words():
    task = load_task("film", "five")
    prompt = task.prompt("<sentence>")
    assert not [word for word in task.labels if word in prompt]
    said(PAGE, f"reads {prompt} and grades it: {', '.join(task.labels[:-1])} or {task.labels[-1]}")
    said(PAGE, "The base model may favour some of the words")


def test_the_first_table_is_told_as_it_is():
    bare, calibrated, tuned = (
        printed(PAGE, rf"\n{name} +(0\.\d+)\n?")[0] for name in ("base model", "calibrated", "LoRA")
    )
    said(PAGE, f"the base model gets {bare} right, no more than the constant answer")
    said(PAGE, f"Five numbers bring it to {calibrated}, and LoRA, 20 steps of 8 labelled sentences, to {tuned}")
    assert float(bare) < float(printed(PAGE, r"\nconstant answer +(0\.\d+)")[0])
    assert printed(PAGE, r"accuracy on (\d+) new sentences") == ("120",)


def test_a_gets_its_first_gradient_in_the_second_step():
    rows = [rf"\n *{step} +([\d.]+) +([\d.]+) +([\d.]+)\n?" for step in (1, 2, 5)]
    steps = [[float(x) for x in printed(PAGE, row)] for row in rows]
    assert steps[0][1] == 0 < min(steps[0][2], *steps[1])
    said(PAGE, f"the loss of a batch falls from {steps[0][0]:.1f} to {steps[-1][0]:.1f}")


def test_with_section_1_s_numbers_the_layers_answer_as_the_library_s():
    same, of = printed(PAGE, r"with section 1's last A and B your layers give its grade to (\d+) of (\d+) sentences")
    assert same == of


def test_what_bfloat16_lets_vanish():
    W = torch.arange(1, 2, 1 / 128).bfloat16()  # every weight of eight binary digits, up to a power of two
    for nowhere in (0.0, 4.0):
        way = torch.nextafter(W, torch.full_like(W, nowhere)).float() - W.float()
        less, more = ((W.float() + share * way / 2).bfloat16() == W for share in (0.999, 1.001))
        assert less.all() and not more.any()
    said(PAGE, "bfloat16 keeps eight binary digits: an entry of the update below half the distance to the next "
               "number vanishes in the sum")  # fmt: skip


def test_what_merging_costs_is_what_was_measured():
    (away,), (single,), (half,) = (
        printed(PAGE, rf"\n{case} +(\d+)\n?")
        for case in ("adapter taken away", "merged, float32 base", "merged, bfloat16 base")
    )
    assert single == half == "0"
    said(PAGE, f"On neither base does merging change a grade of these 40. Taking the adapter away changes {away}.")
    (stay,) = printed(PAGE, r"(\d+)% of the entries stay as they were")
    said(PAGE, f"In this run {stay} % of the entries stay as they were: merging drops this part of the update and "
               "rounds the rest")  # fmt: skip
    said(PAGE, f"On a bfloat16 base {stay} % of the update's entries vanished in our run, and no grade changed")


def test_the_cut_updates_are_told_as_they_are():
    assert printed(PAGE, r" r +accuracy on (\d+) sentences\n") == ("200",)
    table = {r: printed(PAGE, rf"\n *{r} +(0\.\d\d\d)\n")[0] for r in (0, 1, 2, 8, 384)}
    said(PAGE, f"rank 2 gives {table[2]}, the whole update {table[384]}")
    assert float(table[0]) < float(table[1]) < float(table[384]) <= min(float(table[r]) for r in (2, 8))
    said(PAGE, "with two directions of 384 in each matrix we see no loss on 200 sentences")
    (cell,) = (cell for cell in read(PAGE).cells if "plots.kept_by_rank(" in cell.source)
    (alt,) = (o.metadata["image/png"]["alt"] for o in cell.outputs if "image/png" in o.get("data", {}))
    true, shuffled, noise = re.search(
        r"at r = 8: true labels (\d+)%, shuffled labels (\d+)%, random matrices (\d+)%", alt
    ).groups()
    said(PAGE, f"Rank 8 keeps {true} % of the update")
    said(PAGE, f"and still {shuffled} % with shuffled labels, where there is nothing to learn")
    squares = torch.linalg.svdvals(torch.randn(384, 384, generator=torch.Generator().manual_seed(0))) ** 2
    assert f"{100 * squares[:8].sum() / squares.sum():.0f}" == noise
    assert 30 < int(shuffled) < int(true) < 60 and int(noise) < 15
    (caption,) = (line for line in cell.source.splitlines() if line.startswith("caption ="))
    assert "about half of an update, even with shuffled labels, but little of a random matrix" in caption


def test_peft_has_the_same_logits():
    off, folded = printed(PAGE, r"logits differ by (\S+) once loaded, by (\S+) after")
    assert float(off) < 1e-4 and float(folded) < 1e-3
    said(PAGE, "The loaded adapter gives your logits; merge_and_unload() does what your lora_merge does.")


def test_what_happens_one_rate_higher(lora):
    r"""The rates beside the best have all three seeds."""
    constant = lora.validation("constant")
    for arm in ("qv-r8", "all-r8"):
        tried = [run for run in lora.runs if run.cell.arm == arm and run.cell.rate > lora.rate(arm)]
        above = [run for run in tried if run.cell.rate == min(other.cell.rate for other in tried)]
        assert len(above) == 3 and all(run.validation <= constant for run in above)
    said(PAGE, "One rate higher still, LoRA falls to the constant answer with every seed")


def test_the_exercise_asks_for_what_its_check_asks():
    said(PAGE, f"close at least {100 * lora_train.ASKED:.0f} % of the squared distance")
    assert len(practice("lora-train")) == 7
    said(PAGE, 'coursekit.checks.practice("lora-train") gives its seven arguments')
