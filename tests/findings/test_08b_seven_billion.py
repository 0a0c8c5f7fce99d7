r"""What 08b says of its own run, and of the sums for seven billion parameters."""

from __future__ import annotations

from finding import printed, said
from transformers import MistralConfig

from coursekit import counts
from coursekit.memory import GB
from coursekit.memory.predict import predict
from coursekit.memory.quantized import Quantized
from coursekit.methods import LoRA
from coursekit.qlora.memory import claims, llama_config, qlora_bill

PAGE = "08b_seven_billion"
RANK_64 = LoRA(r=64, alpha=16, targets="all-linear")


def test_the_paper_s_base_of_7b_is_larger_than_our_sum():
    adapters = 4 * RANK_64.count(llama_config("7B"))  # in fp32, among the bill's weights
    ours, theirs = (qlora_bill("7B").weights - adapters) / GB, claims()["base_7b"].value / 1000
    said(PAGE, f"Our sum for the 4-bit base of 7B is {ours:.2f} GB, the paper's number {theirs:.2f}")


def test_the_adapter_of_rank_64_is_two_fifths_of_the_states():
    llama = llama_config("7B")
    trained, states = RANK_64.count(llama), qlora_bill("7B").states
    said(PAGE, f"rank 64 beside every layer is {100 * trained / counts.full(llama, 'causal'):.1f} %")
    said(PAGE, f"that takes {16 * trained / GB:.2f} GB, two fifths of the {states / GB:.2f}")
    assert 0.39 < 16 * trained / states < 0.41
    said(PAGE, f"a training step of LLaMA 7B takes {qlora_bill('7B').peak / GB:.1f} GB")


def test_what_mistral_takes_more_and_what_the_counter_does_not_see():
    bill = predict(
        MistralConfig(), RANK_64, batch=1, seq=512, precision="bf16", optimizer="adamw", checkpointing=True,
        device="cuda", quantized=Quantized(),
    )  # fmt: skip
    said(PAGE, f"Mistral's states take {(bill.states - qlora_bill('7B').states) / GB:.1f} GB more")
    said(PAGE, f"paged states, here {8 * RANK_64.count(MistralConfig()) / GB:.1f} GB")


def test_the_notebook_s_own_run():
    same, layers = printed(PAGE, r"the same codes in (\d+) of (\d+) layers")
    assert same == layers
    differ, most = printed(PAGE, r"scales (\S+)% differ, by (\d+) at most")
    said(PAGE, f"All {layers} layers of SmolLM2 have bitsandbytes' 4-bit codes")
    said(PAGE, f"{differ} % of the 8-bit scale codes differ, by {most} at most")
    whole, small = map(float, printed(PAGE, r"adapter: (\S+) MB in fp32, (\S+) MB in 8 bits"))
    said(PAGE, f"take {whole / small:.1f} times less memory for this adapter")
    steps, off = printed(PAGE, r"after (\d+) steps the 8-bit path is off by (\S+)% of the way")
    assert steps == "10" and 0.5 < float(off) < 1.5
    said(PAGE, "off by about a hundredth of the way")


def test_a_small_update_is_rounded_back_and_one_of_the_levels_distance_is_not():
    assert printed(PAGE, r"\n +0\.05 +(\S+)") == ("1.00",)
    assert float(printed(PAGE, r"\n +1 +(\S+)")[0]) < 0.6
    said(PAGE, "the noise is exactly $-\\Delta$, and its size is 1.00")
