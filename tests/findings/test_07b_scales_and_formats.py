r"""What notebook 07b says of formats on real weights, and of its own runs of GPTQ and of training."""

import re
from statistics import fmean

import pytest
import torch
from finding import printed, said

from coursekit.experiments import results
from coursekit.models import load_encoder
from coursekit.quantization import code, measured_error, quantize_affine, quantize_microscaling

PAGE = "07b_scales_and_formats"
#: Formats of the page's first table.
NAMES = (
    "NF4, blocks of 64", "NF4, blocks of 32", "NF4, blocks of 16", "int4, zero point, blocks of 24",
    "NVFP4", "MXFP4",
)  # fmt: skip
#: Three percentages of a row of section 4's table.
OF = r"\s+([\d.]+)%" * 3


def row(name: str) -> tuple[str, str]:
    r"""Of the first table: bits, and the error of the weights in percent."""
    return printed(PAGE, rf"\n{re.escape(name)}  +([\d.]+) +([\d.]+)%")


def apart(name: str) -> tuple[str, str]:
    r"""Of section 3's table: the error of the weights in blocks of 16 and of 32."""
    return printed(PAGE, rf"{re.escape(name)} +([\d.]+)% +([\d.]+)%")


def test_short_blocks_with_8_bit_scales_lose_least():
    table = {name: row(name) for name in NAMES}
    qlora, nf4, int4 = (table[name] for name in ("NF4, blocks of 64", *NAMES[2:4]))
    least = [table[name] for name in NAMES[2:4]]
    others = [own for own in table.values() if own not in least]
    assert len({own[0] for own in least}) == 1
    assert all(float(own[1]) < float(other[1]) for own in least for other in others)
    said(PAGE, f"NF4 and int4 with a zero point lose least, both in short blocks: at {nf4[0]} bits "
               f"{nf4[1]} % and {int4[1]} %, where QLoRA's format, at {qlora[0]}, loses {qlora[1]} %")  # fmt: skip
    said(PAGE, f"NF4 in blocks of 16 ({nf4[0]} bits) has an error of {nf4[1]} %, QLoRA's format ({qlora[0]}) "
               f"{qlora[1]} %")  # fmt: skip
    said(PAGE, f"a weight of QLoRA's format took {qlora[0]} bits")


def test_what_four_bits_cost_in_a_task():
    formats = results.read("formats")
    (found,) = {str(formats.difference(f"full, {code}", "full")) for code in ("int4", "nf4", "e2m1")}
    said(PAGE, f"int4, NF4 and E2M1 in blocks of 64 left accuracy on film sentences {found}")


def test_the_hardware_formats_lose_more_than_nf4_with_as_many_bits():
    pairs = [(row(name), row(f"NF4, blocks of {size}")) for name, size in (("NVFP4", 16), ("MXFP4", 32))]
    assert all(abs(float(own[0]) - float(nf4[0])) <= 0.01 for own, nf4 in pairs)
    assert all(float(own[1]) > 1.2 * float(nf4[1]) for own, nf4 in pairs)
    (nvfp4, short), (mxfp4, long) = pairs
    said(PAGE, f"NVFP4 and MXFP4 lose more than NF4 with as many bits: {nvfp4[1]} % against {short[1]} %, and "
               f"{mxfp4[1]} % against {long[1]} %")  # fmt: skip


def test_a_whole_bit_goes_into_the_code():
    (bits, blocks), (wide, code) = (
        printed(PAGE, rf"{name}: ([\d.]+) bits a weight, error ([\d.]+) %")
        for name in ("NF4, blocks of 8", "NF5, blocks of 256")
    )
    assert round(float(bits), 1) == round(float(wide), 1) == 5.0 and float(blocks) > 1.8 * float(code)
    said(PAGE, f"At 5.0 bits NF5 loses {code} %, NF4 in shorter blocks {blocks} %")
    said(PAGE, "At 5 bits a longer code is better still")
    said(PAGE, "A fraction of a bit buys shorter blocks; a whole one is better spent on the code.")
    assert float(row("NF4, blocks of 32")[1]) < float(row("NF4, blocks of 64")[1])


def test_nvfp4_loses_by_its_levels_and_mxfp4_more_by_its_scale():
    names = ("NF4's levels, scales as in double quantization", "E2M1's levels, the same scales",
             "E2M1's levels, their own scales")  # fmt: skip
    short, long = zip(*map(apart, names), strict=True)
    assert (short[0], short[2], long[0], long[2]) == tuple(
        row(name)[1] for name in ("NF4, blocks of 16", "NVFP4", "NF4, blocks of 32", "MXFP4")
    )
    nf4, e2m1, own = map(float, short)
    assert own - e2m1 < 0.15 * (e2m1 - nf4)
    said(PAGE, "NVFP4 loses by its levels. E2M1 takes the error from {} % to {} %, the scale only to {} %"
               .format(*short))  # fmt: skip
    nf4, e2m1, own = map(float, long)
    assert own - e2m1 > 1.2 * (e2m1 - nf4)
    said(PAGE, "MXFP4 loses more by its scale. The levels take the error from {} % to {} %, the scale to {} %"
               .format(*long))  # fmt: skip
    said(PAGE, "NVFP4 by its levels, MXFP4 more by its scale.")


def test_what_mxfp4_makes_of_a_block_s_largest_weight():
    (back,) = printed(PAGE, r"MXFP4 makes ([\d.]+) of 0\.9")
    assert float(back) == 6 / 8 and 4 <= 0.9 * 8 < 8
    said(PAGE, f"0.9 becomes {back}: $s$ is 1/8, and 7.2 is cut off at 6")


def test_nvfp4_has_one_more_number_for_each_tensor():
    q = quantize_microscaling(torch.randn(8, 32), format="nvfp4")
    assert q.scales.dtype == torch.float8_e4m3fn and q.scales.numel() == 8 * 32 // 16
    assert q.tensor_scale.dtype == torch.float32 and q.tensor_scale.numel() == 1
    said(PAGE, "NVFP4's scale is an e4m3, times one fp32 number a tensor")


def test_what_a_float_s_two_parts_make():
    bits = [(sign, e, m) for sign in (1, -1) for e in range(4) for m in range(2)]
    made = {sign * (1 + m / 2) * 2.0 ** (e - 1) if e else sign * m / 2 * 2.0**0 for sign, e, m in bits}  # bias 1
    assert made == {sign * x for sign in (1, -1) for x in (0, 0.5, 1, 1.5, 2, 3, 4, 6)}
    assert sorted(x / 6 for x in made) == pytest.approx(code("e2m1").double().unique().tolist())
    said(PAGE, "At the lowest exponent a float is 0.mantissa times the power above.")
    said(PAGE, "So E2M1, whose numbers are the levels of both formats, has ±0, ½, 1, 1½, 2, 3, 4, 6.")
    said(PAGE, "Where a line rises to the left, the numbers are 0.mantissa.")


def test_fp16_and_bf16():
    fp16, bf16 = printed(PAGE, r"'fp16': \[(.*?)\], 'bf16': \[(.*?)\]")
    assert fp16.startswith("inf") and not bf16.startswith("inf")
    off = [abs(float(both.split(", ")[1]) - 1.003) for both in (fp16, bf16)]
    assert off[0] < off[1]
    said(PAGE, "bf16 holds 70,000, fp16 is nearer to 1.003")


def test_what_gptq_does_in_this_run():
    plain, few, many = (
        printed(PAGE, rf"\n{name}{OF}")
        for name in ("a step a row, rounded", "GPTQ, H of 64 sentences", "GPTQ, H of 512")
    )
    said(
        PAGE, f"With 512 sentences behind H, GPTQ brings the outputs' error on others from {plain[2]} % to {many[2]} %"
    )
    assert 1.8 < float(many[0]) / float(plain[0]) < 2 and float(many[2]) < 0.5 * float(plain[2])
    said(PAGE, f"The weights' error nearly doubles, from {plain[0]} % to {many[0]} %")
    (nf4,) = printed(PAGE, rf"\nNF4, blocks of 64{OF}\nMeans over the six matrices")[2:]
    said(PAGE, "GPTQ takes no more bits and brings the outputs' error on six matrices "
               f"from {plain[2]} % to {many[2]} %; QLoRA's format has {nf4} % there")  # fmt: skip
    seen, unseen = map(float, few[1:])
    assert unseen > 1.2 * seen and float(many[2]) == pytest.approx(float(many[1]), rel=0.05)
    said(PAGE, f"With few sentences GPTQ overfits. With 64 the error is {few[1]} % on them, {few[2]} % on others")


def test_nf4_in_blocks_has_about_what_gptq_reaches_with_a_step_a_row():
    blocks, ours = (printed(PAGE, rf"\n{name}{OF}") for name in ("NF4, blocks of 64", "GPTQ, H of 512"))
    assert float(ours[2]) < float(blocks[2]) == pytest.approx(float(ours[2]), rel=0.1)
    said(PAGE, f"NF4 in blocks does nearly as well, without sentences: QLoRA's format has {blocks[2]} %")
    said(PAGE, "What GPTQ on NF4's blocks would reach we did not measure.")
    bits = {f"{k:.1f}" for k in (4 + 32 / 384, 4 + 8 / 64 + 32 / (64 * 256))}
    assert bits == {printed(PAGE, r"at ([\d.]+) bits a weight; 512 sentences")[0]}


def test_training_through_the_rounding_wins_back_a_part():
    ways = ("not rounded", "rounded afterwards", "trained through it", "the commoner answer always")
    plain, after, through, always = (float(printed(PAGE, rf"\n{way} +([\d.]+)")[0]) for way in ways)
    gain, half = printed(PAGE, r"2 bits, through minus afterwards: ([\d.]+) ± ([\d.]+) points")
    assert always < after < through < plain and float(gain) > float(half)
    said(PAGE, f"In this run training through the rounding wins back {gain} ± {half} of the "
               f"{100 * (plain - after):.1f} points of accuracy that rounding costs")  # fmt: skip
    said(PAGE, f"won back {gain} ± {half} of {100 * (plain - after):.1f} points in this run")
    (cost,) = printed("07_quantization", r"\nnf2 +[\d.]+ \([^)]*\) +−([\d.]+)")
    said(PAGE, f"With two bits NF2 cost {float(cost):.0f} points in 07")
    encoder = load_encoder("minilm", dtype="float32")[0].bert.encoder
    matrices = [m.weight.detach() for m in encoder.modules() if isinstance(m, torch.nn.Linear)]
    rounded = [quantize_affine(W, bits=2, block=64).dequantize() for W in matrices]
    ours = fmean(
        ((back - W).square().sum() / W.square().sum()).item() for back, W in zip(rounded, matrices, strict=True)
    )
    assert ours < 0.9 * fmean(measured_error(W, "nf2").squared for W in matrices)
    said(
        PAGE, "2-bit integers with a zero point in blocks of 64. The other"
    )  # the fairer rival: they lose less than NF2
