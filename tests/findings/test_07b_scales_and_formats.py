r"""What notebook 07b says of formats on real weights, and of its own run of GPTQ."""

from __future__ import annotations

import math
import re

import pytest
import torch
from finding import printed, said

from coursekit.experiments import results
from coursekit.models import load_encoder
from coursekit.quantization import measured_error

PAGE = "07b_scales_and_formats"
#: Formats of the page's own table.
NAMES = (
    "NF4, blocks of 64, double", "NF4, blocks of 32, double", "NF4, blocks of 16, double",
    "int4, zero point, blocks of 24, double", "E2M1, blocks of 16, double", "HQQ, blocks of 64", "MXFP4", "NVFP4",
)  # fmt: skip
#: Bits and three percentages of a row of section 6's table.
OF = r" +([\d.]+)" + r"\s+([\d.]+)%" * 3


@pytest.fixture(scope="module")
def page_s_matrix() -> torch.Tensor:
    r"""The matrix of sections 2 to 4."""
    encoder = load_encoder("minilm", dtype="float32")[0]
    return encoder.bert.encoder.layer[2].intermediate.dense.weight.detach()


def row(name: str) -> tuple[str, str, str]:
    r"""Of the page's own table: bits, and the error of the weights and of the outputs in percent."""
    return printed(PAGE, rf"\n{re.escape(name)}  +([\d.]+) +([\d.]+)% +([\d.]+)%")


def test_short_blocks_with_8_bit_scales_lose_least_at_four_and_a_half_bits():
    table = {name: row(name) for name in NAMES}
    int4, nf4 = (table[f"{name}, double"] for name in ("int4, zero point, blocks of 24", "NF4, blocks of 16"))
    others = [own for own in table.values() if own not in (int4, nf4)]
    assert int4[0] == nf4[0] and all(round(float(own[0]), 1) <= 4.5 for own in table.values())
    assert float(int4[1]) < float(nf4[1])
    for column in (1, 2):
        assert all(float(own[column]) < float(other[column]) for own in (int4, nf4) for other in others)
    assert int4[2] == nf4[2]
    said(PAGE, f"int4 with a zero point in blocks of 24 and NF4 in blocks of 16 lose least: {int4[2]} % of the outputs")
    said(PAGE, f"These two take {int4[0]}. Of the weights they lose {int4[1]} % and {nf4[1]} %, again the least")
    bits = [round(float(own[0]), 1) for own in table.values()]
    said(PAGE, f"From {min(bits)} to {max(bits)} bits int4 with a zero point in blocks of 24 and NF4 in blocks of 16 "
               "lose least")  # fmt: skip


def test_half_a_bit_goes_to_short_blocks_though_a_code_would_be_cheaper():
    (fifth,) = printed(PAGE, r"NF5 leaves (\d+)% of NF4's error")
    long, short = (list(map(float, row(f"NF4, blocks of {size}, double"))) for size in (64, 16))
    assert short[1] / long[1] > (float(fifth) / 100) ** (short[0] - long[0])
    said(PAGE, "Half a bit goes best to short blocks: a longer code, by section 3 the better buy, costs a whole one")


def test_the_others_lie_above_nf4_s_line_as_the_caption_says():
    line = [[float(x) for x in row(f"NF4, blocks of {size}, double")] for size in (64, 32, 16)]
    for name in ("E2M1, blocks of 16, double", "HQQ, blocks of 64", "MXFP4", "NVFP4"):
        bits, _, outputs = map(float, row(name))
        (left, _, high), (right, _, low) = next(
            pair for pair in zip(line, line[1:], strict=False) if pair[0][0] < bits <= pair[1][0]
        )
        assert outputs > 1.2 * (high + (low - high) * (bits - left) / (right - left))


def test_e2m1_keeps_the_accuracy_of_a_task():
    found = results.read("formats").difference("full, e2m1", "full")
    said(PAGE, f"E2M1 in blocks of 64 left accuracy on film sentences {found}")


def test_qlora_s_own_format_is_the_smallest():
    own = row("NF4, blocks of 64, double")
    assert all(float(own[0]) < float(row(name)[0]) for name in NAMES if name != "NF4, blocks of 64, double")
    said(PAGE, f"takes {own[0]} bits and loses {own[2]} % of the outputs")


def test_hqq_gains_little_for_its_bits():
    hqq, short = row("HQQ, blocks of 64"), row("NF4, blocks of 32, double")
    (plain,) = printed("07_quantization", r"blocks of 64 +squared error on MiniLM[\s\S]*?\nint4, zero point +([\d.]+)%")
    assert float(hqq[1]) < 0.95 * float(plain)
    said(PAGE, f"fitted zero points lower the weights' error to {hqq[1]} %, from {plain} % with plain ones (07)")
    said(PAGE, f"it stores {round(64 * (float(hqq[0]) - 4))} bits a block")
    assert all(float(one) < float(other) for one, other in zip(short, hqq, strict=True))
    said(PAGE, f"NF4 in blocks of 32 beats it in both, with {short[0]}")


def test_nvfp4_loses_by_its_table():
    nvfp4, table, nf4 = (
        row(name)[1] for name in ("NVFP4", "E2M1, blocks of 16, double", "NF4, blocks of 16, double")
    )
    said(PAGE, "NVFP4 loses by its levels, hardly by its scales")
    said(PAGE, f"It loses {nvfp4} % of the weights; its levels, E2M1, in blocks of 16 with double quantization's "
               f"scales {table} %, NF4's there {nf4} %")  # fmt: skip
    assert float(nvfp4) - float(table) < 0.15 * (float(table) - float(nf4))


def test_three_lose_about_the_same_of_the_outputs():
    qlora, *others = (row(name) for name in ("NF4, blocks of 64, double", "HQQ, blocks of 64", "NVFP4"))
    alike = [float(own[2]) for own in (qlora, *others)]
    assert max(alike) < 1.03 * min(alike) and len({own[0] for own in others}) == 1
    said(PAGE, f"QLoRA's format ({qlora[0]}) loses about as much of the outputs as HQQ and NVFP4 ({others[0][0]})")


def test_mxfp4_loses_most():
    most, beside = row("MXFP4"), row("NF4, blocks of 32, double")
    for column in (1, 2):
        assert all(float(row(name)[column]) < float(most[column]) for name in NAMES if name != "MXFP4")
    assert most[0] == beside[0] and 2 < float(most[2]) / float(beside[2]) < 2.4
    said(PAGE, f"MXFP4 loses most, {most[2]} % of the outputs; NF4 with as many bits loses {beside[2]} %")
    said(PAGE, f"MXFP4 ({most[0]}) more than twice what NF4 does with as many")


def test_integers_with_a_zero_point_beat_nf_k_at_two_and_from_five_bits_on(page_s_matrix):
    ratios = printed(PAGE, r"\nthis matrix, zero point" + r" +([\d.]+)" * 7)
    ratio = dict(zip(range(2, 9), map(float, ratios), strict=True))
    error = {k: measured_error(page_s_matrix, f"nf{k}").squared for k in range(2, 9)}
    for k in (2, 5, 6, 7):  # NF-k with the zero point's bits in its code would still lose
        assert ratio[k] < (error[k + 1] / error[k]) ** (k / 64)
    assert ratio[8] < 0.2 and all(abs(ratio[k] - 1) < 0.03 for k in (3, 4))
    said(PAGE, "With a zero point, for k/64 bits more, integers win at two and from five bits on")
    said(PAGE, "at three and four the errors are equal, and NF-k has fewer bits")
    said(PAGE, "symmetric integers are better from six bits on, with a zero point at two and from five on")


def test_symmetric_integers_win_from_six_bits_on():
    for name in ("this matrix", "normal weights"):
        ratios = map(float, printed(PAGE, rf"\n{name}" + r" +([\d.]+)" * 7))
        assert [ratio > 1 for ratio in ratios] == [True] * 4 + [False] * 3
    said(PAGE, "From six bits on symmetric integers win")


def test_how_small_a_block_should_be():
    gains = {}
    for size, scale in ((1024, 32), (512, 32), (256, 32), (128, 32), (128, 8), (64, 8)):
        left, other = map(int, printed(PAGE, rf"\n{size:,} → {size // 2} +{scale} +[\d.]+ +(\d+)% +(\d+)%"))
        gains[size, scale] = left, other
    assert [left < other for left, other in gains.values()] == [True, True, False, False, True, False]
    said(PAGE, "With 32-bit scales the smaller block is the better buy down to blocks of 256")
    said(PAGE, "from 512 to 256 leaves {} % of the error, where a longer code would leave {} %".format(*gains[512, 32]))
    said(PAGE, "from 128 to 64 leaves {} %, the code {} %".format(*gains[128, 8]))
    assert gains[128, 8][1] - gains[128, 8][0] <= 1  # barely
    said(PAGE, "down to 256 weights with 32-bit scales, about 64 with 8-bit ones")


def test_what_a_fifth_bit_leaves(page_s_matrix):
    ratio = measured_error(page_s_matrix, "nf5").squared / measured_error(page_s_matrix, "nf4").squared
    said(PAGE, f"NF5 (ours) leaves {ratio:.0%}".replace("%", " %") + " for one bit")
    assert printed(PAGE, r"NF5 leaves (\d+%) of NF4's error") == (f"{ratio:.0%}",)
    said(PAGE, f"would leave ${ratio:.2f}^f$")


def test_where_the_zero_point_s_factor_comes_from(page_s_matrix):
    low, high = page_s_matrix.min().item(), page_s_matrix.max().item()
    said(PAGE, "the rest from ends that differ")
    code, ends = (15 / 14) ** 2, (2 * max(-low, high) / (high - low)) ** 2
    (ratio,) = printed(PAGE, r"weights +4 +[\d.]+% +[\d.]+% +([\d.]+)")
    said(PAGE, f"a factor of {ratio} at 4 bits: about half of it comes from the sixteenth code ((15/14)² = {code:.2f})")
    assert code * ends == pytest.approx(float(ratio), abs=0.05)
    assert 0.5 < math.log(code) / math.log(code * ends) < 0.6


def test_by_how_much_integers_win_at_eight_bits():
    (ratio,) = printed(PAGE, r"\nthis matrix(?: +[\d.]+){6} +([\d.]+)")
    assert round(1 / float(ratio)) == 5
    said(PAGE, "at eight by a factor of five")


def test_nearly_all_that_a_smaller_scale_brings_comes_with_one_a_row():
    (worth, cost), (more, price) = (
        printed(PAGE, rf"4 bits, then {name}: .* worth log₄ [\d.]+ = ([\d.]+) bits, for ([\d.]+) bits")
        for name in ("a scale a row", "blocks of 64")
    )
    said(PAGE, f"A scale for each row costs {cost} bits and gains as much as {worth} more would")
    said(PAGE, f"Going on to blocks of 64 costs {price} bits and gains {more}")
    assert float(worth) > float(cost) and float(more) < float(price)
    (divided,) = printed(PAGE, r"4 bits, then a scale a row: error divided by ([\d.]+)")
    said(PAGE, f"For a fraction of a bit a scale a row does most: {cost} bits divide this matrix's 4-bit error by "
               f"{divided}")  # fmt: skip


def test_activations_need_a_zero_point():
    (ratio,) = printed(PAGE, r"activations +8 +[\d.]+% +[\d.]+% +([\d.]+)")
    said(PAGE, f"the zero point divides the error by {ratio}")
    said(PAGE, f"a factor of {ratio} for these activations at 8 bits")
    assert float(ratio) < 3.5  # not the four of half the step


def test_what_gptq_does_in_this_run():
    plain, ours = (printed(PAGE, rf"\na step a row, {name}{OF}")[1:] for name in ("rounded", "GPTQ"))
    said(PAGE, f"brings the outputs' error on other sentences from {plain[2]} % to {ours[2]} %")
    said(PAGE, f"The weights' error more than doubles, from {plain[0]} % to {ours[0]} %")
    assert float(ours[0]) > 2 * float(plain[0]) and float(ours[2]) < 0.5 * float(plain[2])
    said(PAGE, "For none GPTQ does: it brought the outputs' error below half")
    said(PAGE, "but more than doubled the weights'")
    levels = printed(PAGE, r"\nthis matrix +[\d.]+ +[\d.]+ +([\d.]+)")  # int4's error over NF4's: less for none, too
    assert float(plain[2]) / float(ours[2]) > float(levels[0])
    said(PAGE, f"On the 64 sentences behind H the error is {ours[1]} %")


def test_nf4_in_blocks_has_about_what_gptq_reaches_with_a_step_a_row():
    blocks, ours = (printed(PAGE, rf"\n{name}{OF}") for name in ("NF4, blocks of 64", "a step a row, GPTQ"))
    assert float(ours[3]) == pytest.approx(float(blocks[3]), rel=0.1)
    said(PAGE, f"QLoRA's format has {blocks[3]} %, for {blocks[0]} bits instead of {ours[0]}")
    said(PAGE, "to about that of NF4 in blocks of 64")


def test_training_through_the_rounding_wins_back_a_part():
    ways = ("not rounded", "rounded afterwards", "trained through it", "the commoner answer always")
    plain, after, through, always = (float(printed(PAGE, rf"\n{way} +([\d.]+)")[0]) for way in ways)
    gain, half = printed(PAGE, r"2 bits, through minus afterwards: ([\d.]+) ± ([\d.]+) points")
    assert always < after < through < plain and float(gain) > float(half)
    said(PAGE, f"Accuracy rises by {gain} ± {half} points on the same sentences: {through:.3f} trained through the "
               f"rounding, {after:.3f} rounded afterwards. Without rounding it is {plain:.3f}")  # fmt: skip
    back = (through - after) / (plain - after)
    assert round(100 * back, -1) == 60
    said(PAGE, "In this run training through the rounding saves about 60 % of what rounding costs")
    said(PAGE, "won back about 60 % of what 2 bits cost in this run")
    (cost,) = printed("07_quantization", r"\nnf2 +[\d.]+ \([^)]*\) +−([\d.]+)")
    said(PAGE, f"plain rounding loses too much: NF2 cost {float(cost):.0f} points in 07")
    assert float(printed(PAGE, r"\nthis matrix, zero point +([\d.]+)")[0]) < 0.9  # at two bits
    said(PAGE, "2-bit integers with a zero point in blocks of 64 (better than NF2: section 4)")
