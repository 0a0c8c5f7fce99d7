r"""What 04 says of the stored runs, and of its own."""

from __future__ import annotations

import re

import pytest
import torch
from finding import ROOT, printed, said

from coursekit.evaluation.scores import Score
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import Results

PAGE = "04_soft_prompts"
#: The rows of its table and what they are compared with.
SHOWN = ["head-mean", "head", "prompt-20", "prompt-20, 600 steps", "prompt-20-text", "p-tuning-lstm", "prefix-1",
         "prefix-20", "prefix-20, 600 steps"]  # fmt: skip


def in_points(found: Difference) -> tuple[float, float, float]:
    return 100 * found.value, 100 * found.low, 100 * found.high


@pytest.fixture(scope="module")
def film() -> Results:
    r"""As the notebook reads it: soft prompts, and the head on the mean of the tokens, on the same sentences."""
    return results.read("soft_prompts", "pooling")


def test_what_each_row_had(film):
    card = (ROOT / "data/evidence/soft_prompts.md").read_text(encoding="utf-8")
    assert "300 steps are 0.64 of the 7,530 training sentences" in card and "- **seeds**: 0, 1, 2" in card
    said(PAGE, "300 steps (0.64 of an epoch), three seeds, each row at its best learning rate")
    said(PAGE, "never the lowest or highest that was tried")
    for arm in SHOWN:
        tried = film.by_rate(arm)
        assert not tried or min(tried) < film.rate(arm) < max(tried), arm
    assert film.parameters("head-mean") == 770
    said(PAGE, "a head on the mean of the tokens (a linear probe), 770 parameters")
    longer = {arm for arm in film.arms if arm.endswith(", 600 steps")}
    assert longer == {f"{arm}, 600 steps" for arm in ("full", "lora", "prefix-20", "prompt-20")}
    said(PAGE, "600 steps ran for a prompt, a prefix and full fine-tuning, for no head")


def test_a_prompt_of_random_words_is_not_shown_to_help_and_a_question_is(film):
    found, fair = (film.difference("prompt-20, 600 steps", other) for other in ("head", "head-mean"))
    assert (found.verdict, fair.verdict) == ("no clear difference", "worse")
    said(PAGE, f"After 600 it is {fair} than the head on the mean; against the head on [CLS]: {found}.")
    said(PAGE, "is not shown to help a head on [CLS] (−0.3 to +5.9 points, after 600 steps)")
    assert str(found).endswith("(−0.3 to +5.9 points)")
    found, fair = (film.difference("prompt-20-text", other) for other in ("head", "head-mean"))
    said(PAGE, f"From a question it is {found} than the head on [CLS], and {fair} than the other")
    said(PAGE, "is ahead of it by {:.0f} ({:.0f} to {:.0f}), and neither".format(*in_points(found)))
    said(PAGE, f"one of three seeds ended at {min(film.seeds('prompt-20')):.2f}")
    assert film.accuracy("prompt-20").high - film.accuracy("prompt-20").low > 0.3, "its row says nothing"
    said(PAGE, f"P-tuning's network is not shown to help either: {film.accuracy('p-tuning-lstm').value:.3f}")
    assert film.difference("p-tuning-lstm", "head").verdict == "no clear difference"
    assert abs(film.difference("p-tuning-lstm", "head").value) < 0.01


def test_no_prompt_reaches_the_head_on_the_mean(film):
    prompts = [arm for arm in film.arms if arm.startswith(("prompt", "p-tuning")) and "examples" not in arm]
    assert all(film.accuracy(arm).value < film.accuracy("head-mean").low for arm in prompts)
    said(PAGE, "Neither reaches the head on the mean")  # none of the prompts
    said(PAGE, "neither reaches a head on the mean of the tokens")
    assert film.accuracy("prefix-1").value > film.accuracy("head-mean").value  # so the figure's caption


def test_a_prefix_reaches_the_head_on_the_mean_and_stays_behind_full_fine_tuning(film):
    found, longer = (film.difference(arm, "head-mean") for arm in ("prefix-20", "prefix-20, 600 steps"))
    family = film.differences([arm for arm in SHOWN if arm != "head-mean"], "head-mean")
    assert len(family) == 8 and longer.verdict == family["prefix-20, 600 steps"].verdict == "better"
    assert family["prefix-20"].verdict == "no clear difference"
    said(PAGE, "by {:.1f} points ({:.1f} to {:.1f}) after 300 steps, not clear".format(*in_points(found)))
    said(PAGE, f"among eight comparisons, and {str(longer).removeprefix('better ')} after 600")
    said(PAGE, f"reaches that head (ahead by {in_points(longer)[0]:.0f} with twice its steps)")
    found = film.difference("prefix-20", "full")
    longer = film.difference("prefix-20, 600 steps", "full, 600 steps")
    also = str(longer).removeprefix("worse ")
    said(PAGE, f"Against full fine-tuning it is {found}, with 600 steps for both {also}")
    said(
        PAGE,
        "stays behind full fine-tuning by {:.0f} and {:.0f}".format(
            *(-in_points(d)[0] for d in (found, longer))
        ),
    )
    found = film.difference("prefix-20", "prefix-1")
    assert found.verdict == "no clear difference"
    size = str(found).removeprefix("no clear difference ")
    said(PAGE, f"Twenty vectors are not shown to be better than one {size}")


def test_on_a_decoder():
    decoder, fair = results.read("decoder"), "untrained, fitted threshold"
    found = decoder.difference("prompt", "untrained")
    said(PAGE, f"a prompt of twenty is {str(found).replace('better', 'better than the untrained model', 1)}")
    threshold = f"({decoder.accuracy(fair).value:.3f} right) there is {decoder.difference('prompt', fair)}"
    said(PAGE, f"but against the untrained model with a fitted threshold {threshold}")
    size = str(decoder.difference("lora", fair)).removeprefix("better ")
    said(PAGE, f"LoRA is better than that {size}")
    said(PAGE, f"Between the prompt and LoRA: {decoder.difference('prompt', 'lora')}")
    assert decoder.steps("prompt") == 100 and decoder.parameters("prompt") == 20 * 576
    said(PAGE, "On SmolLM2 (100 steps, no new classifier)")


def test_the_gate():
    gate = results.read("gate")
    said(PAGE, f"it is {gate.difference('gate', 'open')} than the same prompts with a fixed 1 in its place")
    small = gate.difference("open-small", "gate")
    assert small.verdict == "better" and gate.steps("gate") == 100
    said(PAGE, "are ahead of it by {:.1f} points ({:.1f} to {:.1f})".format(*in_points(small)))


def test_what_section_1_says_of_its_run():
    names = ("the template alone", "a question in words", "nine vectors, untrained", "nine vectors, trained")
    rows = [[float(x) for x in printed(PAGE, rf"{name} +(\S+) +(\S+) +(\S+)")] for name in names]
    template, question, before, after = rows
    said(PAGE, f"the trained vectors get {after[0]:.2f} right. The question in words gets {question[0]:.2f}")
    assert abs(after[0] - question[0]) < 0.05 and before[0] < template[0]
    said(PAGE, f"The nine began at {before[0]:.2f}, below the template alone")
    said(PAGE, f"takes the untrained nine from {before[0]:.2f} to {before[1]:.2f}")
    said(PAGE, f"and the question down from {question[0]:.2f} to {question[1]:.2f}")
    fitted = [row[1] for row in rows]
    said(PAGE, f"all four are between {min(fitted):.2f} and {max(fitted):.2f}")
    assert question[1] < question[0] and max(fitted) - min(fitted) < 0.08
    said(PAGE, f"the ranking is {before[2]:.2f} before it and {after[2]:.2f} after it")
    assert abs(after[2] - before[2]) < 0.03
    half = max(Score.of(torch.arange(100) < 100 * row[0]).high - row[0] for row in rows)
    assert 0.06 < half < 0.1
    said(PAGE, "with an error of about 0.08 in each share (95 %)")


def test_what_the_other_cells_say_of_their_run():
    apart, after_prefix = (float(printed(PAGE, rf"after the {it} and after the words: at most (\S+) apart")[0])
                           for it in ("vectors", "prefix"))  # fmt: skip
    assert apart < 1e-3 and after_prefix < 1e-3
    bare, told = map(float, printed(PAGE, r"'as it is': (\S+), 'told to': (\S+)}"))
    untrained, trained = map(float, printed(PAGE, r"'two vectors': (\S+), 'trained': (\S+)}"))
    said(
        PAGE,
        f"{bare:.3f} as it is, {told:.2f} when told to in the chat format, {untrained:.3f} after the two",
    )
    said(PAGE, f"vectors untrained and {trained:.2f} after them trained")
    loss, shut, slight, wide = map(float, printed(
        PAGE, r"'nothing attached': (\S+), 'gate 0': (\S+), 'gate 0.04': (\S+), 'gate 1': (\S+)}"
    ))  # fmt: skip
    assert loss == shut < slight - 0.5
    said(PAGE, f"that of the model alone, {loss:.2f} nats in this run")
    said(PAGE, f"raise it, to {slight:.2f}, and at 1 they drown the text: {wide:.2f}")
    rows = printed(PAGE, r"started as[^\n]*\n((?:[^\n]+\n?){9})")[0].splitlines()
    assert all(a == b for a, b in (re.match(r"('.*?') +('.*?') ", row).groups() for row in rows)), rows
    moved = [int(re.search(r"(\d+)%", row)[1]) for row in rows]
    assert len(moved) == 9 and all(75 <= x <= 125 for x in moved)
    said(PAGE, "every vector has moved by about its own length, and still its nearest word is the one")


def test_what_the_costs_are():
    row = r" +([\d,]+) +([\d,]+) +(\d+) kB +× (\S+) +([\d,]+) +([\d,]+)"
    prompt, prefix, network = ([float(x.replace(",", "")) for x in printed(PAGE, name + row)]
                               for name in ("PromptTuning", "PrefixTuning", "PTuning"))  # fmt: skip
    full = [
        float(x.replace(",", ""))
        for x in printed(PAGE, r"Full fine-tuning: states (\S+), activations (\S+) MB")
    ]
    assert round(prefix[1] / prompt[1]) == round(network[1] / prefix[1]) == 20 and network[2] == prompt[2]
    assert 4 * prompt[1] / 1000 == pytest.approx(prompt[2], rel=0.01)
    said(PAGE, "The prefix trains 20 times as many parameters as the prompt, and P-tuning's network 20 times")
    said(PAGE, f"but only {prompt[1]:,.0f} numbers of these are stored")
    said(PAGE, f"are {prompt[4]:,.0f} MB with the prompt, {full[0]:,.0f} in full fine-tuning")
    said(PAGE, f"and {prompt[5]:,.0f} MB of activations are more than the {full[1]:,.0f} of full fine-tuning")
    said(PAGE, f"With the prefix they are {prefix[5]:,.0f}")
    said(PAGE, f"Before 500 tokens the prompt adds {100 * 20 / 500:.0f} %")


def test_what_peft_writes():
    right = r" +\S+ +(yes|no) +(yes|no) +(yes|no)"
    assert printed(PAGE, "prompt tuning" + right) == ("yes", "no", "yes")
    assert printed(PAGE, "prefix tuning" + right) == ("yes", "no", "no")
    with_cache, without = (printed(PAGE, rf"PEFT, use_cache={kept}: (.+)")[0] for kept in (True, False))
    assert with_cache != without
    said(PAGE, "writes other words with it than without")
    said(PAGE, "use_cache=False mends it for the prompt but not for a prefix")
