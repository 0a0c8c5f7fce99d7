r"""What 01 says of the bill: from configs alone, and of its own run."""

from __future__ import annotations

import pytest
import torch
from finding import printed, said

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
    said(PAGE, f"A program sees about {card:.1f} GB of such a card")
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
    assert scores / kept > 4
    said(PAGE, f"one tensor of scores takes as much as {scores / kept:.1f} blocks.")


def test_what_all_blocks_keep(config, step):
    said(PAGE, f"{ROWS * TOKENS} tokens have left {step.kept / MB:.0f} MB of activations")
    (measured,) = printed(PAGE, rf"\n *{ROWS} × {TOKENS} +\S+ +\S+ +\S+ +(\S+)")
    assert measured == f"{step.kept / MB:.1f}"


def test_small_moves_are_lost_in_bfloat16():
    weight = torch.tensor(1.0, dtype=torch.bfloat16)
    for _ in range(1000):
        weight = weight + torch.tensor(0.001, dtype=torch.bfloat16)
    assert weight.item() == 1
    said(PAGE, "a weight of 1.0 that is moved by 0.001 a thousand times is still 1.0 in bfloat16")


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
    said(PAGE, "three quarters of the activations are left, with LoRA on all linear layers nine tenths")
    said(PAGE, "in SmolLM2 three quarters to nine tenths of the activations stay")
    # What is freed: of each block the two n, b and p, or the two n alone; and what the last norm and the scores read.
    d, f, T = 4 * config.hidden_size, 4 * config.intermediate_size, ROWS * TOKENS
    for share, freed in ((some, 3 * d + f), (everywhere, 2 * d)):
        counted = 1 - T * (config.num_hidden_layers * freed + 2 * d) / step.kept
        assert abs(share - counted) < 0.005
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
    said(PAGE, "On any machine it is more than 1 and at most about 4/3")
    head = config.vocab_size * config.hidden_size / counts.full(config, "causal")
    assert round(1 / head) == 5
    said(PAGE, f"a fifth of the work, is not run again, which makes it about {1 + (1 - head) / 3:.2f}")


def test_the_stages():
    for stage, size in ((1, "55"), (2, "37.5"), (3, "20")):
        here = memory.shard(memory.bill(10e9), 8, stage).total / GB
        assert f"{here:g}" == size
        said(PAGE, f"stage {stage}: {size} GB" if stage < 3 else f"Only stage 3 fits, with {size} GB")
        assert (here <= memory.card("RTX 4090").capacity() / GB) == (stage == 3)


def test_the_plans():
    plans = {
        case: printed(PAGE, rf"{case} +(\d) of 6 +(\w+), (with|no) checkpointing +(\d) +(\d+)")
        for case in ("10 B on 7 × RTX 4090", "7 B on 4 × A100")
    }
    assert plans["10 B on 7 × RTX 4090"] == ("2", "adamw8bit", "with", "3", "5")
    said(
        PAGE, "Two of the six settings fit, both at stage 3 with checkpointing: 8-bit Adam, five sequences a"
    )
    assert plans["7 B on 4 × A100"][:4] == ("6", "adamw", "with", "2")
    said(
        PAGE,
        f"makes room for {plans['7 B on 4 × A100'][4]} sequences to share the wait, and stage 2 is enough",
    )


def test_what_the_peak_holds():
    r"""The scores are gone by then; their gradient and that of the embedding, which is the output layer, are there."""
    model = load_decoder("smollm2")[0].float().train()
    model.config.use_cache = False
    found = memory.measure(model, memory.random_batch(model, 4, 48), optimizer=None)
    scores, embedding = 4 * 192 * 49_152 / 1e6, model.get_input_embeddings().weight.nbytes / 1e6
    said(PAGE, f"the scores ({scores:.0f} MB) have given way to their gradient, as large, and to that of the output")
    said(PAGE, f"layer ({embedding:.0f} MB)")
    assert abs(max(p.activations for p in found.timeline) / 1e6 - found.kept / 1e6 - embedding) < 1
    assert found.timeline[-3].activations / 1e6 == pytest.approx(embedding, abs=1)
