r"""What 01 says of the bill: from configs alone, and of its own run."""

import itertools
import math
import re

import peft
import pytest
import torch
from bitsandbytes.optim import GlobalOptimManager
from finding import printed, read, said
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from coursekit import counts, memory
from coursekit.checks.memory import block, sharded
from coursekit.live import Live
from coursekit.memory import GB, MB
from coursekit.methods import FullFineTuning, LoRA, detach
from coursekit.models import load_decoder, sources

PAGE = "01_full_finetuning_memory"
ROWS, TOKENS = 4, 48


@pytest.fixture(scope="module")
def config():
    return AutoConfig.from_pretrained(sources.smollm2())


@pytest.fixture(scope="module")
def step(config):
    return memory.predict(config, batch=ROWS, seq=TOKENS)


def test_sixteen_bytes_a_parameter(step):
    said(PAGE, f"Four times: {step.states / GB:.2f} GB in all, whatever the batch. Half of it is Adam's momentum")
    assert step.optimizer - 2 * step.weights < 4 * 300, "beside the states, a count of steps for each tensor"
    assert step.states == 2 * step.weights + step.optimizer
    shown = [printed(PAGE, rf"{part} +(\d+) +(\S+)") for part in ("weights", "gradients", "optimizer")]
    sizes = step.weights, step.gradients, step.optimizer
    assert shown == [(f"{size / MB:.0f}", f"{size / step.weights * 4:.2f}") for size in sizes]
    ten = memory.bill(10e9)
    said(PAGE, "The lecture's 20 + 20 + 120 GB are the second row: at least seven cards of 24 GB")
    assert (ten.weights, ten.gradients, ten.optimizer + ten.master) == (20 * GB, 20 * GB, 120 * GB)
    said(PAGE, f"The lecture's 10 billion parameters take {ten.total / GB:.0f} GB: {ten.total / 10e9:.0f} bytes each")
    said(PAGE, f"10 B parameters are {ten.total / GB:.0f} GB")
    assert math.ceil(ten.total / (memory.card("RTX 4090").memory_gb * GB)) == 7
    assert memory.bill(10e9, precision="fp32").total == ten.total
    card = memory.card("RTX 4090").capacity() / GB
    said(PAGE, f"Their 24 GB are GiB; a program sees about {card:.1f} GB.")


def test_what_a_block_keeps(config, step):
    kept = sum(term.bytes for term in step.block)
    widths = config.hidden_size, config.hidden_size, config.num_attention_heads, config.intermediate_size
    assert block(ROWS, TOKENS, *widths) == kept
    assert printed(PAGE, r"one block: (\S+) bytes counted, (\S+) bytes kept by autograd") == (f"{kept:,}",) * 2
    said(PAGE, "The two agree to the byte.")
    vectors = kept / (4 * ROWS * TOKENS * config.hidden_size)
    said(PAGE, f"A block gets one vector a token and keeps as much as {vectors:.0f} vectors.")
    said(PAGE, f"a block of SmolLM2 keeps {vectors:.0f} vectors a token")


def test_what_all_blocks_keep(config, step):
    said(PAGE, f"{ROWS * TOKENS} tokens leave {step.kept / MB:.0f} MB of activations behind")
    assert printed(PAGE, rf"\n *{ROWS} × {TOKENS} +(\S+) +(\S+)\n") == (f"{step.kept / MB:.1f}",) * 2
    rows = printed(PAGE, r"counted, MB +measured, MB\n.* (\S+) +(\S+)\n.* (\S+) +(\S+)\n.* (\S+) +(\S+)")
    assert rows[::2] == rows[1::2] and float(rows[0]) < float(rows[2]) < float(rows[4])
    said(PAGE, "Activations grow with the batch, and your count with them.")
    said(PAGE, f"the scores (logits), {config.vocab_size:,} at each position")
    scores = torch.randn(4, 10, requires_grad=True)
    softmax = torch.nn.functional.cross_entropy(scores, torch.arange(4)).grad_fn.next_functions[0][0]
    assert torch.equal(softmax._saved_result, scores.log_softmax(1))
    said(PAGE, "at each position; the loss keeps their log-softmax")


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_small_moves_are_lost_in_16_bits(half):
    weight = torch.tensor(1.0, dtype=half)
    for _ in range(1000):
        weight = weight + torch.tensor(0.0001, dtype=half)
    assert weight.item() == 1
    said(PAGE, "In mixed precision weights and gradients have 16 bits. Small moves get lost there")
    adam = memory.bill(10e9, precision="mixed")
    assert (adam.weights, adam.gradients, adam.master, adam.optimizer) == (20 * GB, 20 * GB, 40 * GB, 80 * GB)


def test_8_bit_adam_has_two_states_of_a_byte():
    states = memory.bill(10e9, precision="mixed", optimizer="adamw8bit").optimizer
    assert states == pytest.approx(2 * 10e9, rel=0.02)
    said(PAGE, "mixed precision, 8-bit Adam (a byte a state) | 2 + 2 + 4 | 2 | 10")


def test_a_frozen_weight_needs_two_bytes():
    frozen = memory.bill(10e9).weights / GB
    said(PAGE, f"before activations, {frozen:.0f} of the lecture's 160 GB remain. One RTX 4090 holds that.")
    assert frozen < memory.card("RTX 4090").capacity() / GB


def test_lora_keeps_most_activations(config, step):
    some, everywhere = (
        memory.predict(config, lora, batch=ROWS, seq=TOKENS).kept / step.kept
        for lora in (LoRA(r=8), LoRA(r=8, targets="all-linear"))
    )
    assert 0.73 < some < 0.77 and 0.9 <= everywhere < 0.93
    said(PAGE, "With LoRA on query and value three quarters are left, on all linear layers nine tenths")
    said(PAGE, "in SmolLM2 it keeps three quarters to nine tenths of the activations.")
    # What is freed: of each block the two n, b and p, or the two n alone; and what the last norm and the scores read.
    d, f, T = 4 * config.hidden_size, 4 * config.intermediate_size, ROWS * TOKENS
    for share, freed in ((some, 3 * d + f), (everywhere, 2 * d)):
        counted = 1 - T * (config.num_hidden_layers * freed + 2 * d) / step.kept
        assert abs(share - counted) < 0.005
    said(PAGE, "The gradient still travels through nonlinearities and products, which keep what they need.")
    kept = [
        float(printed(PAGE, rf"{name} +\d+ +(\d+)")[0])
        for name in ("full fine-tuning", "LoRA, query and value", "LoRA, all linear layers")
    ]
    assert [round(k / kept[0], 1) for k in kept[1:]] == [round(some, 1), round(everywhere, 1)]


@pytest.mark.parametrize("library", ["ours", "PEFT"])
def test_each_adapter_s_copy_is_measured(library):
    r"""On a tiny model: what is predicted in bfloat16 is kept, by the course's LoRA and by PEFT's as it comes."""
    shape = dict(vocab_size=100, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(**shape)).to(torch.bfloat16)
    batch, lora = memory.random_batch(model, 2, 16), LoRA(r=8, targets="all-linear")
    wanted = memory.predict(model.config, lora, batch=2, seq=16, precision="bf16").kept
    full = memory.predict(model.config, batch=2, seq=16, precision="bf16").kept
    if library == "ours":
        lora.attach(model)
    else:
        peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert memory.measure(model, batch).kept == pytest.approx(wanted, rel=0.01)
    assert wanted > 1.3 * full


def test_checkpointing(config, step):
    thrifty = memory.predict(config, batch=ROWS, seq=TOKENS, checkpointing=True)
    inputs = 4 * ROWS * TOKENS * config.hidden_size * config.num_hidden_layers
    said(
        PAGE,
        f"Kept activations fall by a factor of {step.kept / thrifty.kept:.0f}, "
        f"from {step.kept / MB:.0f} to {thrifty.kept / MB:.0f} MB",
    )
    scores = 4 * ROWS * TOKENS * config.vocab_size
    assert thrifty.kept == pytest.approx(inputs + scores, rel=0.05)
    kept = sum(term.bytes for term in step.block)
    assert kept / (4 * ROWS * TOKENS * config.hidden_size) == pytest.approx(21, abs=0.5)
    assert inputs == next(term.bytes for term in thrifty.terms if term.name == "inputs of the blocks")
    said(PAGE, "of each block's 21 vectors a token one stays. The scores stay, too.")
    said(PAGE, "Checkpointing keeps one vector of the 21")
    (times,) = printed(PAGE, r"(\S+) times the multiplications")
    head = config.vocab_size * config.hidden_size / counts.full(config, "causal")
    assert 1.2 < float(times) < 1.3
    said(PAGE, "Here it is a quarter.")
    assert times == f"{1 + (1 - head) / 3:.2f}"


def test_checkpointing_costs_lora_up_to_half():
    shape = dict(vocab_size=100, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4)
    model = LlamaForCausalLM(LlamaConfig(**shape)).train()
    model.config.use_cache = False
    batch = memory.random_batch(model, 2, 32)

    def work() -> int:
        model.zero_grad()
        with FlopCounterMode(display=False) as counter:
            model(**batch).loss.backward()
        return counter.get_total_flops()

    found = []
    for way in (FullFineTuning(), LoRA(r=2), LoRA(r=2, targets="all-linear")):
        way.attach(model)
        once = work()
        model.activation_checkpointing_enable({"use_reentrant": False})
        found.append(work() / once)
        model.activation_checkpointing_disable()
        detach(model)
    full, some, everywhere = found
    assert full < 4 / 3 < some < everywhere < 3 / 2 and everywhere == pytest.approx(3 / 2, rel=0.01)
    said(PAGE, "by rule of thumb a third more work, with LoRA up to half.")
    assert 1.25 < float(printed(PAGE, r"(\S+) times the multiplications")[0]) < 4 / 3
    said(PAGE, "for a quarter to a third more work")


def test_checkpointing_lowers_a_peak_that_activations_set(config, step):
    thrifty = memory.predict(config, batch=ROWS, seq=TOKENS, checkpointing=True)
    assert thrifty.peak == step.peak > step.weights + step.gradients + step.optimizer
    large, small = (memory.predict(config, batch=4 * ROWS, seq=TOKENS, checkpointing=on) for on in (False, True))
    assert max(large.timeline, key=lambda point: point.activations + point.gradients).gradients == 0
    # The model lets the gradient that has come to the embedding stay beside the sum; it has gone by then.
    measured = small.peak - 4 * 4 * ROWS * TOKENS * config.hidden_size
    said(
        PAGE,
        f"The peak falls only where activations set it: at {4 * ROWS} × {TOKENS} from {large.peak / MB:.0f} to "
        f"{measured / MB:.0f} MB. At {ROWS} × {TOKENS} it comes at the end, where no activations are left.",
    )
    for name, bill, peak in (
        (f"{ROWS} × {TOKENS}", step, step.peak),
        (f"{ROWS} × {TOKENS}, checkpointed", thrifty, thrifty.peak),
        (f"{4 * ROWS} × {TOKENS}", large, large.peak),
        (f"{4 * ROWS} × {TOKENS}, checkpointed", small, measured),
    ):
        assert printed(PAGE, rf"\n *{name} +(\d+) +(\d+)\n") == (f"{bill.kept / MB:.0f}", f"{peak / MB:.0f}")


def test_the_stages():
    ten = memory.bill(10e9)
    for stage, size in ((1, "57.1"), (2, "40.0"), (3, "22.9")):
        divided = ten.optimizer + ten.master + (stage > 1) * ten.gradients + (stage > 2) * ten.weights
        here = (ten.total - divided + divided / 7) / GB
        assert f"{here:.1f}" == size
        assert (here <= memory.card("RTX 4090").capacity() / GB) == (stage == 3)
    left = memory.card("RTX 4090").capacity() / GB - here
    said(PAGE, "on seven RTX 4090 a 10 B model needs stage 3.")
    said(PAGE, f"Only stage 3 is below the line: its {size} GB leave {left:.1f} for activations.")


#: The page's model, its cards, and which they are.
CONFIG = LlamaConfig(hidden_size=4608, intermediate_size=12288, num_hidden_layers=38, num_attention_heads=36)
CARDS, CARD = 7, memory.card("RTX 4090").capacity()
#: Its sequences, as its planner counts them.
FIXED = dict(batch=1, seq=2048, precision="mixed", device="cuda", padded=False)


def planned(optimizer: str, checkpointing: bool, stage: int) -> tuple[float, float]:
    r"""Bytes of the model's part on a card, and of one sequence."""
    p = memory.predict(CONFIG, optimizer=optimizer, checkpointing=checkpointing, **FIXED)
    return sharded(p.weights, p.gradients, p.optimizer + p.master, CARDS, stage), p.activations


@pytest.fixture(scope="module")
def score():
    r"""The page's own."""
    (code,) = (cell.source for cell in read(PAGE).cells if "\ndef score(" in cell.source)
    names: dict = {}
    exec(code[code.index("def score(") :], names)
    return names["score"]


def test_what_fits_on_seven_cards():
    fits = []
    for optimizer in ("adamw", "adamw8bit"):
        for on in (False, True):
            part, one = planned(optimizer, on, 3)
            name = f"{optimizer}, {'with' if on else 'no'} checkpointing"
            fits += [name] if part + one <= 0.9 * CARD else []
            assert all(sum(planned(optimizer, on, stage)) > 0.9 * CARD for stage in (0, 1, 2))
    assert fits == ["adamw8bit, with checkpointing"]


def test_what_a_sequence_counts_as():
    r"""What is kept and the work on the scores; with norms and loss in float32, the rest in 16 bits."""
    scores = 4 * FIXED["seq"] * CONFIG.vocab_size
    vectors = FIXED["seq"] * CONFIG.hidden_size
    for optimizer, on in itertools.product(("adamw", "adamw8bit"), (False, True)):
        p = memory.predict(CONFIG, optimizer=optimizer, checkpointing=on, **FIXED)
        assert p.activations == p.kept + 2 * scores == max(point.activations for point in p.timeline)
        assert sum(term.bytes for term in p.terms if term.name == "log softmax") == scores
        assert [term.bytes for term in p.block if "in fp32" in term.name] == [4 * vectors] * 2
        assert {term.bytes for term in p.block if term.formula == "T d" and "in fp32" not in term.name} == {2 * vectors}
    (code,) = (cell.source for cell in read(PAGE).cells if "bills = []" in cell.source)
    assert "activations at their highest; norms and loss read float32" in code


def test_what_the_margin_has_to_hold():
    block = 4 * CONFIG.hidden_size**2 + 3 * CONFIG.hidden_size * CONFIG.intermediate_size
    assert 2 * 2 * block < 0.1 * CARD, "the one that computes, and the next"
    said(PAGE, "A tenth of each card stays free for what the bill leaves out.")


def test_the_plan(score):
    name, on, stage, n = printed(PAGE, r"(adamw\w*), (with|no) checkpointing +(\d) +(\d+) +\S+ of")
    assert (name, on, stage, n) == ("adamw8bit", "with", "3", "5")
    part, one = planned(name, True, 3)
    needs, allowed = f"{(part + 5 * one) / GB:.1f}", f"{0.9 * CARD / GB:.1f}"
    speed = score(f"{name}, {on} checkpointing", 3, 5)
    row = printed(PAGE, rf"{name}, {on} checkpointing +3 +5 +(\S+) of (\S+) +(\S+)")
    assert row == (needs, allowed, f"{speed:.2f}")
    assert 0.5 < speed < 0.53
    said(PAGE, "By count seven cards are enough with 8-bit Adam and checkpointing, by our guess at half the speed of "
               "cards that neither recompute nor wait.")  # fmt: skip
    said(PAGE, "No card was measured here.")


def test_what_the_score_is(score):
    assert score("adamw, no checkpointing", 1, 2) == 2 / (2 + 2), "neither hides the other"
    assert score("adamw, no checkpointing", 1, 10**9) == pytest.approx(1), "cards that neither recompute nor wait"
    said(PAGE, "The score is the speed, with one guess: after each pass the cards wait for as long "
               "as two sequences take.")  # fmt: skip


def test_where_the_peak_of_a_step_is(config, step):
    waits = 2 * 4 * config.vocab_size * config.hidden_size
    vectors = 4 * ROWS * TOKENS * config.hidden_size  # the gradient that has come to the embedding
    assert step.peak == step.weights + step.gradients + step.optimizer + waits + vectors
    said(PAGE, f"Here the peak of both passes comes at the end, when all gradients are there: {step.peak / MB:.0f} MB.")
    rest = step.peak - step.weights - step.optimizer
    assert rest == pytest.approx(step.gradients + waits, rel=0.001)
    said(PAGE, "The last spike is the embedding,")
    lora = memory.predict(config, LoRA(r=8), batch=ROWS, seq=TOKENS)
    highest = max(lora.timeline, key=lambda point: point.activations + point.gradients)
    assert (highest.label, highest.gradients) == ("loss", 0)
    for name, bill in (("full fine-tuning", step), ("LoRA, query and value", lora)):
        assert printed(PAGE, rf"{name} +\d+ +\d+ +(\d+)") == (f"{bill.peak / MB:.0f}",)


def test_the_pictures_add_up_to_the_peaks_of_the_text(config, step):
    alts = [
        output.metadata["image/png"]["alt"]
        for cell in read(PAGE).cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("metadata", ())
    ]
    large = memory.predict(config, batch=4 * ROWS, seq=TOKENS)
    for bill in (step, large):
        beside = bill.weights + bill.optimizer
        label = " + ".join(f"{size / MB:.0f}" for size in (bill.peak - beside, beside))
        assert any(f"{label} = {bill.peak / MB:.0f}" in alt for alt in alts)


def test_the_measured_peak_is_at_the_end():
    r"""The gradient of the embedding, which is the output layer, is there twice, and its sum."""
    model = load_decoder("smollm2")[0].float().train()
    model.config.use_cache = False
    found = memory.measure(model, memory.random_batch(model, ROWS, TOKENS), optimizer=None)
    together = [point.activations + point.gradients for point in found.timeline]
    assert len(together) - together.index(max(together)) < 5
    embedding = model.get_input_embeddings().weight.nbytes
    assert max(together) == pytest.approx(found.gradients + 2 * embedding, abs=MB)
    comes = [p.activations - q.activations for q, p in zip(found.timeline, found.timeline[1:], strict=False)]
    assert comes.count(embedding) == comes.count(-embedding) == 2, "what the picture draws among the gradients"


def test_the_sum_of_the_two_gradients_is_a_tensor_of_its_own():
    r"""Without `memory.measure`, under which PyTorch adds no gradients in place: by the profiler, on a tiny model."""
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=5000, tie_word_embeddings=True, **shape))
    embedding, now, most = model.get_input_embeddings().weight.nbytes, 0, 0
    with torch.profiler.profile(profile_memory=True) as profile:
        model(**memory.random_batch(model, 2, 8)).loss.backward()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    gradients = 4 * model.num_parameters()
    assert now >= gradients and most - gradients == pytest.approx(2 * embedding, rel=0.05)
    said(PAGE, "whose gradient comes twice: it is the output layer, too.")


def test_zero_splits_the_optimizer_first():
    first, second, third = (
        [sharded(*part, 4, stage) < 1 for part in ((0, 0, 1), (0, 1, 0), (1, 0, 0))] for stage in (1, 2, 3)
    )
    assert first == [True, False, False] and second == [True, True, False] and third == [True] * 3
    said(PAGE, "ZeRO splits optimizer, gradients and weights, in this order")


class Watched(Trainer):
    r"""`looks`: of each batch, the most bytes beside the weights until the loss is known, and in its backward pass.

    `left`: of the last batch, what is there in between.
    """

    def training_step(self, model, inputs, *_):
        live, self.looks = Live(), getattr(self, "looks", [])
        live.add(model.parameters())
        now = -sum(event.change for event in live.events)
        live.add(p.grad for p in model.parameters() if p.grad is not None)
        with live:
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
            live.mark("pass ends")
            self.accelerator.backward(loss)
            live.mark("pass ends")
        most = 0
        for event in live.events:
            now += event.change
            most = max(most, now)
            if event.label == "pass ends" and event.storage is None:
                self.looks.append(most)
                self.left = now if len(self.looks) % 2 else self.left
                most = 0
        return loss.detach()


@pytest.mark.parametrize("batches", [1, 2])
def test_the_recipe_runs_and_its_copies_go_before_the_gradients_are_there(tmp_path, batches, monkeypatch):
    r"""The page's arguments as they stand, on a tiny model on the CPU."""
    # The trainer notes here, for the whole process, that parameter 0, its embedding, has states of 32 bits.
    monkeypatch.setattr(GlobalOptimManager, "_instance", None)
    (code,) = re.findall(r"```python\n.*?\n\n(.*?)```", "\n".join(cell.source for cell in read(PAGE).cells), re.DOTALL)
    here = dict(use_cpu=True, max_steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=batches)
    here |= dict(output_dir=tmp_path, report_to=[], save_strategy="no", disable_tqdm=True)
    looks, left = {}, {}
    for autocast in (True, False):

        def arguments(_, autocast=autocast, **as_printed):
            assert as_printed["bf16"] and as_printed["activation_checkpointing"] and "8bit" in as_printed["optim"]
            return TrainingArguments(**as_printed | {"bf16": autocast} | here)

        shape = dict(hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=1000, **shape))
        ids = torch.arange(16)
        rows = [{"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}] * batches
        trainer = Watched(model, eval(code, {"TrainingArguments": arguments}), train_dataset=rows)
        trainer.train()
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        looks[autocast], left[autocast] = trainer.looks[-2:], trainer.left
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2) - model.model.embed_tokens.weight.numel()
    (loss, end), (plain_loss, plain_end) = looks[True], looks[False]
    assert loss - plain_loss == pytest.approx(2 * matrices, rel=0.02)
    output_layer = 2 * model.lm_head.weight.numel()
    assert left[True] - left[False] <= 1.02 * output_layer < matrices / 5, "checkpointed blocks keep no copies"
    gradients = 4 * model.num_parameters()
    assert plain_loss > gradients if batches > 1 else plain_loss < gradients / 10
    assert batches > 1 or end == pytest.approx(plain_end, rel=0.01) == pytest.approx(gradients, rel=0.1)


def test_section_7_counts_a_16_bit_weight_whole_and_its_master_copy_split():
    bills = {precision: memory.bill(10e9, precision=precision) for precision in ("fp32", "mixed")}
    fp32, mixed = ((b.weights, b.gradients, b.master) for b in bills.values())
    assert fp32 == (40 * GB, 40 * GB, 0) and mixed == (20 * GB, 20 * GB, 40 * GB) and sum(fp32) == sum(mixed)
    said(PAGE, "Weight and gradient take 4 + 4 bytes, as much as section 2's 2 + 2 + 4.")
    p = memory.predict(CONFIG, **FIXED)
    n = counts.full(CONFIG, "causal")
    assert (p.weights, p.master) == (2 * n, 4 * n)
    here = sharded(p.weights, 0, p.master, CARDS, 1)
    assert here == 2 * n + 4 * n / CARDS
    said(PAGE, "in section 2's mixed precision")
