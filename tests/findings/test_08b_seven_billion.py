r"""What 08b says of its own run, and of the sums for seven billion parameters."""

from __future__ import annotations

from types import SimpleNamespace

from finding import printed, read, said
from transformers import MistralConfig

from coursekit import counts, memory
from coursekit.memory import GB
from coursekit.methods import LoRA
from coursekit.qlora.memory import claims, llama_config, qlora_bill

PAGE = "08b_seven_billion"
RANK_64 = LoRA(r=64, alpha=16, targets="all-linear")


def test_the_paper_s_base_of_7b_is_larger_than_our_sum():
    adapters = 4 * RANK_64.count(llama_config("7B"))  # in fp32, among the bill's weights
    ours, theirs = (qlora_bill("7B").weights - adapters) / GB, claims()["base_7b"].value / 1000
    said(PAGE, f"the 4-bit base of 7B the sum misses: it has {ours:.2f} GB, the paper {theirs:.2f}")


def test_the_adapter_of_rank_64_is_two_fifths_of_the_states():
    llama = llama_config("7B")
    trained, states = RANK_64.count(llama), qlora_bill("7B").states
    said(PAGE, f"rank 64 beside every layer is {100 * trained / counts.full(llama, 'causal'):.1f} %")
    said(PAGE, f"that takes {16 * trained / GB:.2f} GB, two fifths of the {states / GB:.2f}")
    assert 0.39 < 16 * trained / states < 0.41
    said(PAGE, f"a training step of LLaMA 7B takes {qlora_bill('7B').peak / GB:.1f} GB")


def test_four_of_the_paper_s_numbers_are_arithmetic_and_two_are_not():
    places = [
        r"GPU of 48 GB +48 GB +abstract +(\S+) GB; (\S+) with bf16 adapters; (\S+) with paged",
        r"on average +0\.37 bits +introduction +(\S+) bits",
        r"approximately +3 GB +introduction +(\S+) GB",
        r"more than this +780 GB +introduction +(\S+) GB",
        r"of 7B +5048 MB +section 2 +(\S+) MB",
        r"0\.2 % of 7B +26 MB +section 2 +(\S+) MB",
    ]
    (whole, narrow, paged), (bits,), (saved,), (full,), (base,), (lora,) = (
        tuple(map(float, printed(PAGE, f"(?m){place}"))) for place in places
    )
    assert full > 780 and (round(bits, 2), round(saved)) == (0.37, 3) and abs(lora / 26 - 1) < 0.05
    said(PAGE, "Four of the six are arithmetic, which the sum repeats")
    assert paged < narrow < whole and abs(base / 5048 - 1) > 0.2
    said("08_qlora", f"with the authors' bf16 adapters, {narrow} GB. With fp32 ones, {whole}, it fits")
    said(PAGE, "65B on 48 GB depends on the card and on the adapter's precision (08)")


def test_what_is_on_top_of_the_states_at_the_peak(monkeypatch):
    bills = {size: qlora_bill(size) for size in ("7B", "65B")}
    sizes = memory.Quantized.unpacked
    monkeypatch.setattr(memory.Quantized, "unpacked", lambda *its: sizes(*its)._replace(weight=0))
    found = []
    for size, bill in bills.items():
        worst = max(bill.timeline, key=lambda point: point.activations + point.gradients)
        assert worst.label == "backward: block 0"
        matrix = 2 * llama_config(size).hidden_size * llama_config(size).intermediate_size
        assert matrix == bill.peak - qlora_bill.__wrapped__(size).peak  # past its cache
        found.append(f"{matrix / memory.MB:.0f} MB in {size}")
    said(PAGE, "The peak comes near the end of the backward pass, in the first block")
    said(PAGE, f"one weight matrix unpacked into 16 bits: {', '.join(found)}")


def test_the_prediction_of_the_gpu_cell_is_for_the_model_that_is_loaded():
    (cell,) = (cell.source for cell in read(PAGE).cells if "max_memory_allocated" in cell.source)
    call = cell[cell.index("memory.predict(") : cell.index(".peak  # fmt")].removeprefix("memory.predict")
    names = {"big": SimpleNamespace(config=MistralConfig()), "beside": RANK_64, "longest": 64, "memory": memory}
    bill = eval(f"memory.predict{call}", names)
    assert bill.optimizer == 0 and bill.weights > qlora_bill("7B").weights, "Mistral is larger than LLaMA 7B"
    said(PAGE, "no output of a 7B model is stored")


def test_the_notebook_s_own_run():
    same, layers = printed(PAGE, r"the same codes and scales in (\d+) of (\d+) layers")
    assert same == layers
    differ, most = printed(PAGE, r"scales (\S+)% differ, by (\d+) at most")
    said(PAGE, f"All {layers} layers of SmolLM2 have bitsandbytes' 4-bit codes")
    said(PAGE, "Every 4-bit code agrees, but not every scale")
    said(PAGE, f"{differ} % of the 8-bit scale codes differ, by {most} at most")
    course, theirs, mixed = (
        printed(PAGE, rf"(?m)(\d\.\d+)  {whose}$")[0]
        for whose in ("the course's", "bitsandbytes'", "the course's layers, bitsandbytes' scales")
    )
    assert mixed == theirs != course
    said(PAGE, f"have bitsandbytes' loss, {theirs}, in every digit printed; with their own, {course}")
    whole, small = map(float, printed(PAGE, r"adapter: (\S+) MB in fp32, (\S+) MB in 8 bits"))
    said(PAGE, f"take {whole / small:.1f} times less memory for this adapter")
    steps, off = printed(PAGE, r"after (\d+) steps the 8-bit path is off by (\S+)% of the distance")
    assert steps == "10" and 0.5 < float(off) < 1.5
    said(PAGE, "off by about a hundredth of the distance travelled")


def test_a_small_update_is_rounded_back_and_a_larger_one_is_not():
    small, early, fifth, half = (
        printed(PAGE, rf"(?m)^ *{move}% of the way: noise (\S+), arrives (\S+)$")
        for move in ("5.0", "10.0", "20.0", "50.0")
    )
    assert small[0] == "1.00" and abs(float(small[1])) < 0.005
    said(PAGE, "At 5 % nothing arrives: no weight gets halfway")
    said(PAGE, f"and the noise is $-\\Delta$, {small[0]}")
    said(PAGE, f"At 10 % a fourteenth arrives ({early[1]}), at 20 % two thirds ({fifth[1]})")
    said(PAGE, f"at 50 % nearly all ({half[1]})")
    assert round(1 / float(early[1])) == 14 and abs(float(fifth[1]) - 2 / 3) < 0.02 and float(half[1]) > 0.9
    said(PAGE, f"with noise of {half[0]} on top")
    said(PAGE, "at 20 % two thirds of it arrives, at 50 % nearly all")


def test_08_s_update_is_beside_it_as_08_prints_it():
    move, far = printed("08_qlora", r"weight moves (\S+)% of the way to its next level; of ten times ΔW (\S+)% pass")
    said(PAGE, f"There it was {move} %")
    said(PAGE, f"In 08 it was {move} %")
    said(PAGE, f"moves the median weight by {10 * float(move):.0f} % and takes {far} % of the weights past halfway")
    assert round(10 / float(move)) == 17
    said(PAGE, "about seventeen times 08's for a fourteenth of it to survive")
