r"""What notebook 08 says of stored runs and of the memory of LLaMA."""

from __future__ import annotations

import pytest
from finding import printed, said

from coursekit.comparison import costs
from coursekit.experiments import results
from coursekit.memory import GB, GiB, card
from coursekit.qlora.memory import qlora_bill

PAGE = "08_qlora"
METHODS = results.read("methods")


def points(value: float, digits: int = 1) -> str:
    return f"{100 * value:+.{digits}f}".replace("-", "−")


def test_qlora_and_lora_are_equal_for_practical_purposes():
    found = METHODS.difference("qlora", "lora-all-linear")
    assert found.verdict == "equal for practical purposes"
    assert METHODS.rate("qlora") == METHODS.rate("lora-all-linear")
    said(
        PAGE,
        f"the difference is {points(found.value)} points ({points(found.low)} to {points(found.high)}), "
        "with the same learning rate found for both",
    )


def test_both_are_ahead_of_a_head_on_the_mean():
    both = results.read("methods", "pooling")
    lora, qlora = (both.difference(arm, "head-mean") for arm in ("lora-all-linear", "qlora"))
    value, low, high = (f"{100 * x:.1f}" for x in (lora.value, lora.low, lora.high))
    said(
        PAGE,
        f"LoRA is {value} points ahead of a head on the mean of the tokens ({low} to {high}), "
        f"QLoRA {100 * qlora.value:.1f} ({100 * qlora.low:.1f} to {100 * qlora.high:.1f})",
    )
    assert qlora.verdict == "better"


def test_it_is_an_easy_test():
    found = results.read("formats").difference("full, nf4", "full")
    said(
        PAGE,
        f"it loses {-100 * found.value:.1f} points on this task ({points(found.low)} to {points(found.high)})",
    )


def test_when_7b_and_13b_need_four_bits():
    seen = card("RTX 4090").capacity()
    plain = {size: qlora_bill(size, quantized=None).peak for size in ("7B", "13B")}
    assert plain["7B"] < seen < plain["13B"]
    said(PAGE, f"7B fits even with LoRA on 16 bits ({plain['7B'] / GB:.1f} GB)")
    said(PAGE, f"13B needs QLoRA ({qlora_bill('13B').peak / GB:.1f} GB against {plain['13B'] / GB:.1f})")


def test_where_the_plan_for_65b_flips():
    assert 3 + 3 * 0.5 / 4 == 3.375
    said(PAGE, "3 + 3 · 0.5 / 4 = 3.375 a row")
    printed(PAGE, r"65B on A100 80GB +(1 × adamw +1 × adamw +16 × adamw, ckpt)")
    said(PAGE, f"there it flips at about {(3 - 2) / (2 - 3 / 16):.2f}")  # 2 + 2u = 3 + 3u / 16


def test_against_full_fine_tuning():
    found = METHODS.difference("qlora", "full")
    assert found.verdict == "no clear difference"
    said(
        PAGE,
        f"no clear difference, {points(found.value)} points ({points(found.low)} to {points(found.high)})",
    )


def test_a_step_of_qlora_is_slower():
    steps = costs.read()
    ratio = steps["qlora"].step_ratio / steps["lora-all-linear"].step_ratio
    said(PAGE, f"a QLoRA step takes {ratio:.2f} times a LoRA step")


def test_65b_fits_into_48_gb_with_its_states_paged_out():
    resident, paged = qlora_bill("65B").peak, qlora_bill("65B", optimizer="paged_adamw").peak
    assert paged < resident < 48 * GB
    said(
        PAGE,
        f"it needs {resident / GB:.1f} GB, no room to spare on 48 (a card of 48 GiB has {48 * GiB / GB:.1f})",
    )
    said(PAGE, f"as the recipe says, {paged / GB:.1f} GB")
    said(PAGE, f"LLaMA 65B needs {resident / GB:.1f} GB with all states on the card, {paged / GB:.1f} GB")


def test_33b_fits_on_24_gib_with_smaller_states_alone():
    seen = card("RTX 4090").capacity()
    resident, paged = qlora_bill("33B").peak, qlora_bill("33B", optimizer="paged_adamw").peak
    eight = qlora_bill("33B", optimizer="adamw8bit").peak
    assert paged < eight < seen < resident < 1.02 * 24 * GiB and qlora_bill("13B").peak < seen
    said(
        PAGE,
        f"33B needs {resident / GB:.1f} GB, just above the {seen / GB:.1f} that a program gets: it fits with its "
        f"states in 8 bits ({eight / GB:.1f}) or paged out ({paged / GB:.1f})",
    )


@pytest.mark.parametrize("size", ["7B", "65B"])
def test_adapters_in_bf16_take_half_of_a_and_b_and_of_their_gradients(size):
    fp32, bf16 = (qlora_bill(size, optimizer="paged_adamw", adapters=name) for name in ("fp32", "bf16"))
    trained = fp32.gradients // 4
    assert fp32.weights - bf16.weights == fp32.gradients - bf16.gradients == 2 * trained
    assert 2 * trained < fp32.peak - bf16.peak <= 4 * trained


def test_how_long_unpacking_takes_by_the_data_sheet():
    unpack, row = (
        (0.5 + 2) / 1.0,
        2 * 512 / 165,
    )  # picoseconds a weight: bytes over TB/s, operations over TFLOP/s
    said(PAGE, f"{unpack:.1f} ps against {row:.1f} ps: about {unpack / row:.1f}")
    assert abs((0.5 + 2) / 2.0 / (2 * 512 / 312) - unpack / row) < 0.05
    said(PAGE, "about the same on an A100, at 2.0 TB/s and 312 TFLOP/s")


# The notebook's own run ------------------------------------------------------------------------------------


def test_training_gets_below_the_entropy():
    before, after, entropy = map(
        float, printed(PAGE, r"before: ([\d.]+) nats, after: ([\d.]+) nats ; entropy ([\d.]+)")
    )
    assert after < entropy
    said(
        PAGE,
        f"costs {before:.1f} nats before training and {after:.1f} after it, less than the entropy, {entropy:.1f}",
    )


def test_the_memory_of_a_step_is_predicted_and_added_up_rightly():
    parts = ("weights", "gradients", "optimizer", "activations", "peak")
    rows = {part: [float(x) for x in printed(PAGE, rf"{part} +([\d.]+) +([\d.]+)")] for part in parts}
    assert all(abs(predicted - measured) < 0.011 for predicted, measured in rows.values())
    weights, gradients, optimizer, activations, peak = (rows[part][1] for part in parts)
    assert weights == max(weights, gradients, optimizer, activations)
    assert abs(weights + optimizer + activations - peak) < 0.1
    said(PAGE, "The peak is weights, optimizer and activations")


def test_what_merging_into_four_bits_leaves():
    merged, before = map(
        float, printed(PAGE, r"merged into four bits: ([\d.]+) nats; ([\d.]+) before training")
    )
    after = float(printed(PAGE, r"after: ([\d.]+) nats")[0])
    assert (merged - after) / (before - after) > 0.9
    said(
        PAGE,
        f"cost {merged:.1f} nats after the merge, {before:.1f} before training and {after:.1f} with the adapter",
    )
    norm = r"([\d,]+)"
    update, lost, new = (
        float(printed(PAGE, rf"{what}, sum of the layers' norms: {norm}")[0])
        for what in ("update", "lost by rounding, old scales", "new scales")
    )
    assert abs(lost / update - 1) < 0.02 and 1 < new / update < 1.2
    small, moved = printed(PAGE, r"typical entry of the update: ([\d.]+)% of a distance of levels; ([\d.]+)%")
    said(
        PAGE, f"the typical entry of ΔW is {float(small):.0f} % of the distance".replace("ΔW", "$\\Delta W$")
    )
    assert moved == "0.0001"
    said(PAGE, "about one weight in a million changes its level")


def test_the_losses_of_bitsandbytes_are_the_packages():
    three = r" +([\d.]+) ([\d.]+) ([\d.]+)"
    ours, theirs = (
        printed(PAGE, rf"the package's: {three}\nb"),
        printed(PAGE, rf"bitsandbytes and PEFT:{three}"),
    )
    assert all(abs(float(a) - float(b)) < 0.01 for a, b in zip(ours, theirs, strict=True))
    said(PAGE, "The losses differ by less than 0.01")
