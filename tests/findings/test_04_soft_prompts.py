r"""What 04 says of the stored runs, and of its own."""

from __future__ import annotations

import pytest
import torch
from finding import ROOT, printed, said

from coursekit import memory
from coursekit.evaluation.scores import Score
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import Results
from coursekit.methods import PromptTuning
from coursekit.models import load_decoder

PAGE = "04_soft_prompts"
#: The rows of its table and what they are compared with.
SHOWN = ["head-mean", "head", "prompt-20", "prompt-20-text", "p-tuning-lstm", "prefix-1", "prefix-20"]


def in_points(found: Difference) -> tuple[float, float, float]:
    return 100 * found.value, 100 * found.low, 100 * found.high


@pytest.fixture(scope="module")
def film() -> Results:
    r"""As the notebook reads it: soft prompts, and the head on the mean of the tokens, on the same sentences."""
    return results.read("soft_prompts", "pooling")


def test_what_each_row_had(film):
    card = (ROOT / "data/evidence/soft_prompts.md").read_text(encoding="utf-8")
    assert "300 steps are 0.64 of the 7,530 training sentences" in card and "- **seeds**: 0, 1, 2" in card
    said(PAGE, "300 steps (0.64 of an epoch), three seeds, each row at the learning rate that was best")
    for arm in SHOWN:
        tried = film.by_rate(arm)
        assert not tried or min(tried) < film.rate(arm) < max(tried), arm
    assert film.parameters("head-mean") == 770
    said(PAGE, "a head on the mean of the tokens, 770 parameters and no prompt")
    assert "head-mean, 600 steps" not in film.arms
    said(PAGE, "than the head after 300; a head of 600 steps is not stored")


def test_no_prompt_reaches_the_head_on_the_mean(film):
    prompts = [arm for arm in film.arms if arm.startswith(("prompt", "p-tuning")) and "examples" not in arm]
    assert all(film.accuracy(arm).value < film.accuracy("head-mean").low for arm in prompts)
    said(PAGE, "No prompt reaches the head on the mean")
    said(PAGE, "On MiniLM no prompt reaches a head on the mean of the tokens")
    assert film.accuracy("prefix-1").value > film.accuracy("head-mean").value  # so the figure's caption
    assert film.accuracy("prompt-20").high - film.accuracy("prompt-20").low > 0.3, "its row says nothing"
    said(PAGE, f"the three seeds disagree: one ended at {min(film.seeds('prompt-20')):.2f}")


def test_a_prompt_beside_the_head_on_cls(film):
    longer = film.difference("prompt-20, 600 steps", "head-mean")
    found, fair = (film.difference("prompt-20-text", other) for other in ("head", "head-mean"))
    assert (longer.verdict, fair.verdict, film.steps("prompt-20-text")) == ("worse", "worse", 300)
    shorter = str(fair).removeprefix("worse ")
    said(PAGE, f"After 600 steps such a prompt is {longer} than that head, and from a question {shorter} after 300")
    said(PAGE, f"from a question it is {found} than that head alone")
    said(PAGE, f"P-tuning's network is not shown to help: {film.accuracy('p-tuning-lstm').value:.3f}")
    assert film.difference("p-tuning-lstm", "head").verdict == "no clear difference"
    assert abs(film.difference("p-tuning-lstm", "head").value) < 0.01


def test_a_prefix_reaches_the_head_on_the_mean_and_stays_behind_full_fine_tuning(film):
    found, longer = (film.difference(arm, "head-mean") for arm in ("prefix-20", "prefix-20, 600 steps"))
    family = film.differences([arm for arm in SHOWN if arm != "head-mean"], "head-mean")
    assert len(family) == 6 and family["prefix-20"].verdict == "no clear difference"
    lead = "Its lead of {:.1f} points ({:.1f} to {:.1f})".format(*in_points(found))
    said(PAGE, f"{lead} is not clear among six comparisons. After 600 steps it is {longer} than the head after 300")
    said(PAGE, "A prefix of twenty reaches that head")
    found = film.difference("prefix-20", "full")
    longer = film.difference("prefix-20, 600 steps", "full, 600 steps")
    also = str(longer).removeprefix("worse ")
    said(PAGE, f"It stays behind full fine-tuning: {found}, with 600 steps for both {also}")
    behind = "stays behind full fine-tuning by {:.0f} points, by {:.0f} with 600 steps for both"
    said(PAGE, behind.format(*(-in_points(d)[0] for d in (found, longer))))


def test_on_a_decoder():
    decoder, fair = results.read("decoder"), "untrained, fitted threshold"
    found = decoder.difference("prompt", "untrained")
    said(PAGE, f"a prompt of twenty is {str(found).replace('better', 'better than the untrained model', 1)}")
    unclear = str(decoder.difference("prompt", fair))
    said(PAGE, f"the threshold between its two words, and there is {unclear}")
    size = str(decoder.difference("lora", fair)).removeprefix("better ")
    said(PAGE, f"LoRA is better than that {size}")
    by_head = results.read("pooling").difference("lora-mean", "lora").in_points().replace(" (", " points (", 1)
    said(PAGE, f"LoRA gains {by_head} by that head")
    assert not any("prompt" in arm and "mean" in arm for arm in results.read("soft_prompts", "pooling").arms)
    assert decoder.steps("prompt") == 100 and decoder.parameters("prompt") == 20 * 576
    said(PAGE, "In 100 steps, without a new classifier")


def test_what_section_1_says_of_its_run():
    names = ("the template alone", "a question in words", "nine vectors, untrained", "nine vectors, trained")
    rows = [[float(x) for x in printed(PAGE, rf"{name} +(\S+) +(\S+)")] for name in names]
    template, question, before, after = rows
    said(PAGE, f"the training takes the nine vectors from {before[0]:.2f} right to {after[0]:.2f}")
    said(PAGE, f"The question in words gets {question[0]:.2f} without any training")
    assert abs(after[0] - question[0]) < 0.05 and before[0] < template[0]
    said(PAGE, f"the order of the pairs is {before[1]:.2f} before the training and {after[1]:.2f} after it")
    said(PAGE, f"the order of the sentences stayed at {after[1]:.2f}")
    assert before[1] == after[1] == question[1]
    half = max(Score.of(torch.arange(100) < 100 * row[0]).high - row[0] for row in rows)
    assert 0.06 < half < 0.1
    said(PAGE, "A share of 100 sentences has an error of about 0.08 (95 %)")


def test_what_the_other_cells_say_of_their_run():
    assert float(printed(PAGE, r"after the prefix and after the words: at most (\S+) apart")[0]) < 1e-3
    how = ("nothing", "told in words", "two vectors, untrained", "two vectors, trained")
    bare, told, untrained, trained = (float(printed(PAGE, rf"{name} +(0\.\d+)")[0]) for name in how)
    said(PAGE, f'"Sure" has a chance of {bare:.3f} without a prompt, {told:.2f} when told in words')
    said(PAGE, f"{untrained:.3f} after the two vectors untrained and {trained:.2f} after them trained")


def test_what_the_costs_are():
    full, prompt, prefix, network = (
        [float(x.replace(",", "")) for x in (*printed(PAGE, rf"{name} +(\d[\d,]{{4,}}) +([\d.]+)\n?"),
                                             *printed(PAGE, rf"states, MB[^#]*?{name} +([\d,]+) +([\d,]+)"))]
        for name in ("full fine-tuning", "prompt", "prefix", "P-tuning")
    )  # fmt: skip
    assert round(prefix[0] / prompt[0]) == round(network[0] / prefix[0]) == 20
    said(PAGE, f"= {prompt[0]:,.0f} parameters, a prefix")
    said(PAGE, f"= {prefix[0]:,.0f}, 20 times as many. P-tuning's network has 20 times as many again")
    said(PAGE, f"only the {prompt[0]:,.0f} numbers that it makes are stored")
    said(PAGE, f"in this run a pass took {prompt[1]:.1f} times as long")
    said(PAGE, f"{prompt[2]:,.0f} MB with the prompt, {full[2]:,.0f} in full fine-tuning")
    said(PAGE, f"{prompt[3]:,.0f} MB are more than the {full[3]:,.0f} of full fine-tuning")
    said(PAGE, f"20 tokens and frozen weights, they are {prefix[3]:,.0f}")


def test_what_peft_writes():
    ours, with_cache, without = (printed(PAGE, rf"{who}: (.+)")[0]
                                 for who in ("ours", "PEFT", "PEFT without a cache"))  # fmt: skip
    assert ours == without != with_cache
    assert float(printed(PAGE, r"logits at most (\S+) apart")[0]) < 1e-3
    said(PAGE, "writes other words with it than without")
    said(PAGE, "For a prompt use_cache=False mends it")


def test_with_long_texts_a_prompt_keeps_fewer_activations_than_full_fine_tuning():
    config = load_decoder("smollm2")[0].config
    for seq, fewer in ((20, False), (100, True)):
        full = memory.predict(config, batch=8, seq=seq).activations
        prompt = memory.predict(config, PromptTuning(n=20), batch=8, seq=seq).activations
        assert (prompt < full) == fewer
    said(PAGE, f"{prompt / 1e6:,.0f} MB against {full / 1e6:,.0f}")
