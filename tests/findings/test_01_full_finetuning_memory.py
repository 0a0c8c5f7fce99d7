r"""What 01 says of the bill: from configs alone, and of its own run."""

from __future__ import annotations

import pytest
from finding import ROOT, printed, said

from coursekit import counts, memory
from coursekit.checks.memory import block
from coursekit.memory import GB, MB
from coursekit.methods import LoRA
from coursekit.models import load_decoder

PAGE = "01_full_finetuning_memory"
ROWS, TOKENS = 4, 48


@pytest.fixture(scope="module")
def config():
    return load_decoder("smollm2")[0].config


@pytest.fixture(scope="module")
def step(config):
    return memory.predict(config, batch=ROWS, seq=TOKENS)


def test_sixteen_bytes_a_parameter(step):
    said(PAGE, f"{step.states / GB:.2f} GB in all")
    ten = memory.bill(10e9)
    said(PAGE, "The lecture's bill of 20 + 20 + 120 GB is the second row")
    assert (ten.weights, ten.gradients, ten.optimizer + ten.master) == (20 * GB, 20 * GB, 120 * GB)
    said(PAGE, f"10 B parameters are {ten.total / GB:.0f} GB")
    assert memory.gpus_needed(ten, "RTX 4090", unit="GB") == 7
    assert memory.bill(10e9, precision="fp32").total == ten.total
    card = memory.card("RTX 4090").capacity() / GB
    said(PAGE, f"a program sees about {card:.1f} GB of it")
    assert round(ten.total / 7 / GB, 1) >= round(0.9 * card, 1)
    said(PAGE, f"a seventh of its bill is {ten.total / 7 / GB:.1f} GB, all that we allow on a card")


def test_what_a_block_keeps(config, step):
    kept = sum(term.bytes for term in step.block)
    widths = config.hidden_size, config.hidden_size, config.num_attention_heads, config.intermediate_size
    assert block(ROWS, TOKENS, *widths) == kept
    said(PAGE, f"The two agree to the byte: {kept:,} for {ROWS * TOKENS} tokens")
    vectors = kept / (4 * ROWS * TOKENS * config.hidden_size)
    said(PAGE, f"for the backward pass it keeps {vectors:.0f}.")
    said(PAGE, f"a block keeps {vectors:.0f} vectors of the model's width for each token")
    assert 0.47 < 4 * 4 * ROWS * TOKENS * config.intermediate_size / kept < 0.53
    scores = 4 * ROWS * TOKENS * config.vocab_size
    said(PAGE, f"One tensor of scores takes as much as {scores / kept:.1f} blocks")


def test_the_worst_moment(config, step):
    known, highest = printed(PAGE, r"loss is known: (\d+) MB, highest: (\d+) MB")
    said(PAGE, f"activations take {known} MB when the loss is known, and {highest} at the highest")
    assert known == f"{step.kept / MB:.0f}"
    assert max(step.timeline, key=lambda point: point.activations).label == "backward: head"
    smaller = memory.predict(config, batch=2, seq=32)
    assert max(smaller.timeline, key=lambda point: point.activations).label == "backward: embedding"
    assert f"{step.kept / MB:.0f} + {4 * config.vocab_size * config.hidden_size / MB:.0f}" == "315 + 113"
    said(PAGE, "with 4 × 48 one is there at the worst moment (315 + 113 MB), with 2 × 32 both")
    larger = memory.predict(config, batch=8, seq=48)
    assert max(larger.timeline, key=lambda point: point.activations).label == "loss"
    scores = 4 * 8 * 48 * config.vocab_size / MB
    assert abs(larger.activations - larger.kept - 2 * scores * MB) < 0.2 * MB
    said(
        PAGE,
        f"With 8 × 48 tokens it lies in the loss: two more tensors as large as the scores, "
        f"{larger.kept / MB:.0f} + 2 · {scores:.1f} MB",
    )
    table = 4 * config.vocab_size * config.hidden_size
    said(PAGE, f"{table / MB:.0f} MB each")
    states, peak = printed(PAGE, r"full fine-tuning +\S+ +(\d+) +\d+ +(\d+)")
    assert abs(step.weights / MB + float(states) + 2 * table / MB - float(peak)) < 5


def test_a_frozen_weight_needs_two_bytes():
    frozen = memory.bill(10e9).weights / GB
    said(PAGE, f"of the lecture's 160 GB {frozen:.0f}, which is one RTX 4090 in place of seven")
    said(PAGE, f"in mixed precision {frozen:.0f} of the 160 GB are left")
    assert frozen < memory.card("RTX 4090").capacity() / GB


def test_lora_keeps_most_activations(config, step):
    some, everywhere = (
        memory.predict(config, lora, batch=ROWS, seq=TOKENS).kept / step.kept
        for lora in (LoRA(r=8), LoRA(r=8, targets="all-linear"))
    )
    assert 0.73 < some < 0.77 and 0.9 <= everywhere < 0.93
    said(PAGE, "three quarters of the activations are left; with LoRA on all linear layers only the two n")
    said(PAGE, "only the two n are freed, and nine tenths are left")
    said(PAGE, "in SmolLM2 three quarters to nine tenths of the activations stay")
    # What is freed: of each block the two n, b and p, or the two n alone; and what the last norm and the scores read.
    d, f, T = 4 * config.hidden_size, 4 * config.intermediate_size, ROWS * TOKENS
    for share, freed in ((some, 3 * d + f), (everywhere, 2 * d)):
        counted = 1 - T * (config.num_hidden_layers * freed + 2 * d) / step.kept
        assert abs(share - counted) < 0.005
    said(PAGE, "with LoRA on query and value that frees the two n, b and p of each block")
    kept = [
        float(printed(PAGE, rf"{name} +\S+ +\d+ +(\d+)")[0])
        for name in ("full fine-tuning", "LoRA, query and value", "LoRA, all linear layers")
    ]
    assert [round(k / kept[0], 1) for k in kept[1:]] == [round(some, 1), round(everywhere, 1)]


def test_checkpointing(config, step):
    thrifty = memory.predict(config, batch=ROWS, seq=TOKENS, checkpointing=True)
    blocks = config.num_hidden_layers * sum(term.bytes for term in step.block)
    inputs = 4 * ROWS * TOKENS * config.hidden_size * config.num_hidden_layers
    said(
        PAGE,
        f"Kept activations fall from {step.kept / MB:.0f} to {thrifty.kept / MB:.0f} MB, "
        f"a factor of {step.kept / thrifty.kept:.0f}",
    )
    said(PAGE, f"The blocks alone fall by a factor of {blocks / inputs:.0f}")
    said(PAGE, f"of {blocks / MB:.0f} MB {inputs / MB:.0f} are left")
    said(PAGE, f"(SmolLM2's {blocks / MB:.0f} MB became {inputs / MB:.0f})")
    said(PAGE, f"{4 * ROWS * TOKENS * config.vocab_size / MB:.0f} MB of scores")
    (took,) = printed(PAGE, r"a step takes (\S+) times as long")
    assert 1.05 < float(took) < 1.5
    head = config.vocab_size * config.hidden_size / counts.full(config, "causal")
    assert round(1 / head) == 5
    said(PAGE, f"a fifth of the work, is not run again, which makes it about {1 + (1 - head) / 3:.2f}")
    yours, theirs = printed(PAGE, r"bytes kept: (\S+) with your class, (\S+) with model")
    assert yours == theirs


def test_the_stages():
    for stage, size in ((1, "55"), (2, "37.5"), (3, "20")):
        here = memory.shard(memory.bill(10e9), 8, stage).total / GB
        assert f"{here:g}" == size
        said(PAGE, f"{size} GB")
        assert (here <= memory.card("RTX 4090").capacity() / GB) == (stage == 3)


def test_the_plans():
    plans = {
        case: printed(PAGE, rf"{case} +(\d) of 6 +(\w+), (with|no) checkpointing +(\d) +(\d+)")
        for case in ("10 B on 7 × RTX 4090", "7 B on 4 × RTX 4090", "7 B on 4 × A100", "70 B on 8 × H100",
                     "70 B on 16 × H100")
    }  # fmt: skip
    assert plans["10 B on 7 × RTX 4090"] == ("2", "adamw8bit", "with", "3", "5")
    said(
        PAGE, "Two of the six settings fit, both at stage 3 with checkpointing: 8-bit Adam, five sequences a"
    )
    assert plans["7 B on 4 × RTX 4090"][:4] == ("2", "adamw8bit", "with", "3")
    assert plans["7 B on 4 × A100"][:4] == ("6", "adamw", "with", "2")
    # The folded answer: three sequences without checkpointing against as many as fit with it, 4/3 of the time each.
    said_so, n = "Below about 1.1: there three sequences without", int(plans["7 B on 4 × A100"][4])
    gained = [n / (n * 4 / 3 + wait) - 3 / (3 + wait) for wait in (1.0, 1.2)]
    assert gained[0] < 0 < gained[1]
    # 8-bit Adam has room for four without checkpointing, but at stage 3 alone, where the traffic is 1.5 times as much.
    assert n / (n * 4 / 3 + 1.2) > 0.95 * 4 / (4 + 1.5 * 1.2)
    assert said_so in (ROOT / "notebooks" / f"{PAGE}.ipynb").read_text(encoding="utf-8")
    said(
        PAGE,
        f"makes room for {plans['7 B on 4 × A100'][4]} sequences to share the wait, and stage 2 is enough",
    )
    assert plans["70 B on 8 × H100"][:2] == ("1", "sgd") and plans["70 B on 16 × H100"][1] == "adamw8bit"
    said(PAGE, "eight H100 have room for plain SGD alone")
