r"""What 04 says of the stored runs, and of its own."""

from __future__ import annotations

import pytest
import torch
from finding import ROOT, printed, said, tenths

from coursekit import memory
from coursekit.checks.soft_prompts_train import ASKED as ASKED_SHARE
from coursekit.checks.soft_prompts_train import DESIGN, LEARN
from coursekit.evaluation.scores import Score
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import Results
from coursekit.experiments.run import FITTED_ON
from coursekit.methods import PromptTuning
from coursekit.models import load_decoder

PAGE = "04_soft_prompts"
#: The rows of its table and what they are compared with.
SHOWN = ["probe", "head", "prompt-20", "prompt-20-text", "p-tuning-lstm", "prefix-1", "prefix-20", "full"]


def by(found: Difference) -> str:
    r"""Size and interval with the table's decimals, whatever the sign: "by 5.0 points (3.4 to 6.6)"."""
    value, low, high = (abs(100 * x) for x in (found.value, *sorted((found.low, found.high), key=abs)))
    return f"by {value:.1f} points ({low:.1f} to {high:.1f})"


@pytest.fixture(scope="module")
def film() -> Results:
    r"""As the notebook reads it: soft prompts, linear probes, LoRA with both heads, on the same sentences."""
    return results.read("soft_prompts", "probe", "pooling")


def test_what_each_row_had(film):
    card = (ROOT / "data/evidence/soft_prompts.md").read_text(encoding="utf-8")
    assert "300 steps are 0.64 of the 7,530 training sentences" in card and "- **seeds**: 0, 1, 2" in card
    assert "2009 test sentences" in card
    said(PAGE, "film sentences (2,009 to test), 300 steps (0.64 of an epoch), three seeds, each row at the learning "
               "rate that was best")  # fmt: skip
    for arm in SHOWN[1:]:  # the probe has no learning rate
        tried = film.by_rate(arm)
        assert not tried or min(tried) < film.rate(arm) < max(tried), arm
    assert film.steps("probe") == 0, "its loss is at its minimum, whatever the steps"
    said(PAGE, "a linear probe: logistic regression on the mean of the frozen model's tokens, trained to its end, "
               f"{film.parameters('probe')} numbers")  # fmt: skip


#: The table's questions on MiniLM beside the main one: a family of their own.
ASKED = [
    ("prompt-20, 600 steps", "probe"), ("prompt-20-text", "head"), ("prefix-20, 600 steps", "probe"),
    ("prefix-20", "full"), ("prefix-20, 600 steps", "full, 600 steps"), ("lora-mean", "lora"),
]  # fmt: skip


def test_no_prompt_is_shown_to_reach_the_probe(film):
    prompts = [arm for arm in film.arms if arm.startswith(("prompt", "p-tuning")) and "examples" not in arm]
    assert all(film.accuracy(arm).value < film.accuracy("probe").low for arm in prompts)
    said(PAGE, "No prompt is shown to reach the linear probe")
    said(PAGE, "On MiniLM no prompt is shown to reach a linear probe")
    family = film.differences(SHOWN, "probe")
    worse = [family["prompt-20-text"], family["p-tuning-lstm"], film.paired({p: p for p in ASKED})[ASKED[0]]]
    assert {found.verdict for found in worse} == {"worse"}
    words, network, longer = map(by, worse)
    said(PAGE, f"Three prompts are worse than the probe: a prompt from a question {words}, P-tuning "
               f"{network}, a prompt from random words after 600 steps {longer}")  # fmt: skip
    one, probe, twenty = (film.accuracy(arm).value for arm in ("prefix-1", "probe", "prefix-20"))
    assert one < probe < twenty  # so the figure's caption
    assert film.accuracy("prompt-20").high - film.accuracy("prompt-20").low > 0.3, "its row says nothing"
    said(PAGE, f"the three seeds disagree too much to tell; one ended at {min(film.seeds('prompt-20')):.2f}")


def test_a_prompt_beside_the_head_on_cls(film):
    found = film.difference("prompt-20-text", "head")
    assert (found.verdict, film.steps("prompt-20-text")) == ("better", 300)
    said(PAGE, f"a prompt from a question is better {by(found)} than the head on [CLS]")
    said(PAGE, f"P-tuning's network is not shown to help: {film.accuracy('p-tuning-lstm').value:.3f}")
    assert film.difference("p-tuning-lstm", "head").verdict == "no clear difference"
    assert abs(film.difference("p-tuning-lstm", "head").value) < 0.01


def test_a_prefix_beside_the_probe_and_behind_full_fine_tuning(film):
    near = film.differences(SHOWN, "probe")["prefix-20"]
    asked = film.paired({pair: pair for pair in ASKED})
    later, found, longer = (asked[pair] for pair in ASKED[2:5])
    assert (near.verdict, later.verdict) == ("no clear difference", "better")
    said(PAGE, f"A prefix of twenty shows {tenths(near).replace('difference', 'difference from the probe')}. After 600 "
               f"steps it is better {by(later)}")  # fmt: skip
    said(PAGE, "A prefix of twenty beats it after 600 steps, not clearly after 300, and stays behind full fine-tuning")
    said(PAGE, "A prefix of twenty shows no clear difference from it after 300 steps, is better after 600")
    assert found.verdict == longer.verdict == "worse"
    said(PAGE, f"The prefix is worse than full fine-tuning {by(found)}, with 600 steps for both {by(longer)}")
    behind = "stays behind full fine-tuning by {:.1f} points, by {:.1f} with 600 steps for both"
    said(PAGE, behind.format(*(-100 * d.value for d in (found, longer))))


def test_a_prefix_of_one_vector(film):
    one, head = film.accuracy("prefix-1").value, film.accuracy("head").value
    said(PAGE, f"A prefix of one trains {film.parameters('prefix-1'):,} numbers, classifier included, and gets "
               f"{one:.3f}, {100 * (one - head):.0f} points more than the head on [CLS] and not clearly "
               "fewer than the probe")  # fmt: skip
    assert film.differences(SHOWN, "probe")["prefix-1"].verdict == "no clear difference"


def test_on_a_decoder():
    decoder, fair = results.read("decoder"), "untrained, fitted threshold"
    prompt, untrained, fitted = (decoder.accuracy(arm).value for arm in ("prompt", "untrained", fair))
    said(PAGE, f"a prompt of twenty gets {prompt:.3f} right of 500 test sentences of any length; the untrained "
               f"model gets {untrained:.3f}, and {fitted:.3f} once it may fit one number, the threshold between its "
               f"two words, on {FITTED_ON} training sentences")  # fmt: skip
    family = decoder.differences(["untrained", "prompt", "lora"], fair)
    assert [family[arm].verdict for arm in ("prompt", "lora")] == ["no clear difference", "better"]
    ends = family["prompt"].in_points().split("(")[1].removesuffix(")")
    said(PAGE, f"the prompt shows no clear difference ({ends} points); LoRA is better {by(family['lora'])}")
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
    said(PAGE, f"P-tuning's {network[1]:.1f} is for the same work in the blocks")
    said(PAGE, f"that is {prompt[2] + prompt[3]:,.0f} MB against {full[2] + full[3]:,.0f}")
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
    table = 4 * config.vocab_size * config.hidden_size
    for seq, fewer in ((20, False), (100, True)):
        step = memory.predict(config, batch=8, seq=seq)
        moments, full = {moment.label: moment.activations for moment in step.timeline}, step.activations
        assert full == moments["loss" if fewer else "backward: head"]
        assert fewer or full == step.kept + table
        prompt = memory.predict(config, PromptTuning(n=20), batch=8, seq=seq).activations
        assert (prompt < full) == fewer
    said(PAGE, f"{prompt / 1e6:,.0f} MB with the prompt against {full / 1e6:,.0f}")
    said(PAGE, f"Of these {table / 1e6:.0f} are a gradient: the word vectors' table, {config.vocab_size:,} × "
               f"{config.hidden_size} floats")  # fmt: skip


def test_when_the_last_exercise_gives_all_points():
    assert ASKED_SHARE == 0.4 and 2 / LEARN < 0.03 < 3 / LEARN, "how much more than the words _score asks for"
    said(PAGE, f"full points ask {100 * ASKED_SHARE:.0f} % and at least three countries more than the words")
    assert DESIGN.budget.minutes == 3
    said(PAGE, "your function has three minutes")
