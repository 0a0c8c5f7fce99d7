r"""What data/evidence/README.md says, computed."""

from __future__ import annotations

import pytest
from finding import said, tenths
from test_11_reinforcement import LONGER, judged

from coursekit.experiments import results
from coursekit.experiments.results import few

README = "data/evidence/README.md"
#: (topics, one arm, another, its verdict, what the README says before the difference)
FOUND = [
    (("ia3",), "ia3", "full", "no clear difference", "(IA)³ against full fine-tuning: "),
    (("adapters",), "houlsby r=64, magnitude 80% after", "houlsby r=64", "no clear difference",
     "80 % of a trained adapter's weights pruned by magnitude against none: "),
    (("soft_prompts", "pooling"), "prompt-20", "head-mean", "no clear difference",
     "A prompt of twenty vectors against a head on the mean: "),
    (("gate",), "gate", "open-small", "worse", "LLaMA-Adapter's gate is "),
    (("pooling",), "head-mean", "head", "better", "A head on the mean of the tokens is "),
    (("probe", "pooling"), "probe", "head-mean", "equal for practical purposes",
     "trained to its end on the mean against that head after 300 steps: "),
    (("methods", "probe"), "bitfit", "probe", "no clear difference", "BitFit against a linear probe: "),
    (("pooling",), "lora-mean", "head-mean", "better", "LoRA with that head is "),
    (("decoder",), "lora", "untrained, fitted threshold", "better", "On SmolLM2 LoRA is "),
    (("selective",), "fisher mask", "random mask", "worse", "Entries chosen by Fisher information are "),
    (("lora",), "qv-r64", "qv-r8", "equal for practical purposes", "LoRA of rank 64 against rank 8: "),
    (("lora",), "all-r8", "full", "no clear difference", "LoRA on all linear layers against full fine-tuning: "),
    (("ia3",), few("lora", 16), few("ia3", 16), "no clear difference", "With 16 sentences LoRA against (IA)³: "),
]  # fmt: skip


@pytest.mark.parametrize(("topics", "arm", "other", "verdict", "phrase"), FOUND, ids=[f[-1].strip() for f in FOUND])
def test_what_the_readme_says(topics, arm, other, verdict, phrase):
    found = results.read(*topics).difference(arm, other)
    assert found.verdict == verdict
    said(README, f"{phrase}{found}")


#: (topic, one arm, another, column, its verdict, what the README says before the difference)
MEASURED = [
    ("grpo", "GRPO", "as released", "eight", "no clear difference", "GRPO against the released model: "),
    ("grpo", "GRPO", "as released", "right", "better", "GRPO's drawn answers are "),
    ("grpo", "shown the answers", "GRPO", "right", "no clear difference", "against GRPO, by drawn answers: "),
]


@pytest.mark.parametrize(("topic", "arm", "other", "of", "verdict", "phrase"), MEASURED)
def test_what_the_readme_says_of_other_measures(topic, arm, other, of, verdict, phrase):
    found = results.read(topic).difference(arm, other, of=of)
    assert found.verdict == verdict
    said(README, f"{phrase}{found}")


def test_shown_answers_and_grpo_in_the_same_time():
    adjusted = judged(results.read("grpo"))
    found, slow = (adjusted[f"{LONGER}{at} GRPO{at} right"] for at in ("", " at 0.0006"))
    assert found.verdict == "no clear difference" and slow.verdict == "better" and found.family == 14
    value, ends = found.in_points()[:-1].replace("+", "").split(" (")
    more = f"for as long as GRPO takes brings {value} points more ({ends}), {found.verdict}"
    said(README, f"{more} among the fourteen comparisons of lesson 11 (p = {found.p:.2f}, adjusted)")
    said(README, f"It was called better; at a third of the rate it is {tenths(slow)}")


def test_what_the_readme_says_of_dpo_in_nats():
    dpo = results.read("dpo")
    chosen, margin = (dpo.accuracy("DPO", of=of) for of in ("chosen", "margin"))
    gap = dpo.difference("DPO", "chosen alone", of="chosen")
    assert chosen.low < 0 < chosen.high and margin.low > 0 > gap.high
    for found, phrase in ((chosen, "the chosen film sentences by "), (margin, "margin on held-out film pairs is ")):
        value, low, high = (f"{x:+.1f}".replace("-", "−") for x in (found.value, found.low, found.high))
        said(README, f"{phrase}{value} nats ({low} to {high})")
    said(README, f"lie {-gap.value:.1f} nats ({-gap.high:.1f} to {-gap.low:.1f}) below")
