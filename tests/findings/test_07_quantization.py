r"""What notebook 07 says of stored runs."""

from __future__ import annotations

import math
from statistics import median

import torch
from finding import printed, said

from coursekit.checks import quantization_codebook as codebook
from coursekit.checks.draw import Draw
from coursekit.experiments import results
from coursekit.models import load_decoder, load_encoder
from coursekit.qlora.memory import llama_config
from coursekit.quantization import code, grid, measured_error, quantize_affine, quantize_blockwise
from coursekit.quantization.normal_float import tail

PAGE = "07_quantization"
FORMATS = results.read("formats")
NAMES = ["int8", "int4", "fp4", "nf4", "int3", "nf3", "nf2"]
#: The table of section 8: one family.
TABLE = FORMATS.differences([f"full, {name}" for name in NAMES], "full")


def signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def test_eight_and_four_bits():
    eight, nf4, int4 = (TABLE[f"full, {name}"] for name in ("int8", "nf4", "int4"))
    assert {d.verdict for d in (eight, nf4, int4)} == {"equal for practical purposes"}
    said(PAGE, f"({signed(eight.value)} points, {signed(eight.low)} to {signed(eight.high)})")
    said(PAGE, f"NF4 {signed(nf4.value)} ({signed(nf4.low)} to {signed(nf4.high)})")
    said(PAGE, f"int4 {signed(int4.value)} ({signed(int4.low)} to {signed(int4.high)})")
    assert min(nf4.low, int4.low) > -0.03
    said(PAGE, "four bits less than the 3 points that we call equal")
    said(PAGE, f"cost a classifier {-100 * nf4.value:.1f} points (NF4)")


def test_fp4_loses_less_than_what_we_call_equal():
    fp4 = TABLE["full, fp4"]
    assert fp4.high < 0 and fp4.verdict == "equal for practical purposes"
    said(
        PAGE,
        f"does lose something, {-100 * fp4.value:.1f} points ({-100 * fp4.high:.1f} to {-100 * fp4.low:.1f})",
    )


def test_nf4_and_int4_are_equal_in_accuracy():
    found = FORMATS.difference("full, nf4", "full, int4")
    assert found.verdict == "equal for practical purposes"
    said(
        PAGE, f"NF4 minus int4 is {signed(found.value)} points ({signed(found.low)} to {signed(found.high)})"
    )


def test_three_bits():
    int3, nf3 = TABLE["full, int3"], TABLE["full, nf3"]
    assert (int3.verdict, nf3.verdict) == ("worse", "no clear difference")
    assert abs(nf3.value - int3.value) < 0.005
    said(
        PAGE,
        f"Three bits cost int3 {-100 * int3.value:.1f} points ({-100 * int3.high:.1f} to {-100 * int3.low:.1f})",
    )
    assert f"{int3.value:.3f}" == f"{nf3.value:.3f}"
    said(
        PAGE,
        f"nf3 has the same {-100 * nf3.value:.1f} with an interval too wide for a verdict "
        f"({-100 * nf3.high:.1f} to {-100 * nf3.low:.1f})",
    )


def test_two_bits():
    assert str(TABLE["full, nf2"]) == "worse by 14 points (12 to 17)"
    said(PAGE, "NF2 costs 14 points (12 to 17)")
    said(PAGE, "NF2's two bits ruin the language model and cost the classifier 14 points")


# The notebook's own run ------------------------------------------------------------------------------------


def test_what_bits_cost_the_language_model():
    (nf4,), (nf3,), (nf2,) = (
        printed(PAGE, rf"{name} +[\d.,]+(?: million)? +([\d.,]+)(?: million)? \(") for name in ("nf4", "nf3", "nf2")
    )
    said(
        PAGE,
        f"Four bits multiply the perplexity by about {float(nf4):.1f}, three bits by about {float(nf3):.0f}",
    )
    said(PAGE, f"of a small language model that had been rounded before by about {float(nf4):.1f}")
    assert float(printed(PAGE, r"nf2 +([\d,]+) million")[0].replace(",", "")) > 1  # the vocabulary has 49,152 tokens
    assert sum(code("nf2") < 0) == 1
    said(PAGE, "nf2 has a single level below zero")


def test_the_slide_s_four_weights():
    w = torch.tensor([0.35, -1.2, 2.7, -0.45], dtype=torch.float64)
    example = grid(w.min(), w.max(), bits=4)
    codes = example.encode(w)
    said(PAGE, f"$s=3.9/15={example.scale:.2f}$ and $z={int(example.zero)}$")
    said(PAGE, "| code $q$ | " + " | ".join(str(q) for q in codes.tolist()) + " |")
    back = " | ".join(f"{x:.2f}" for x in example.decode(codes).tolist()).replace("-", "−")
    said(PAGE, f"| comes back as $\\hat x$ | {back} |")
    for_scale, for_zero = grid(0.0, 1.0), grid(0.0, 10.0)
    scale = for_scale.decode(for_scale.encode(example.scale))
    zero = for_zero.decode(for_zero.encode(example.zero))
    twice = scale.double() * (codes.double() - zero)
    said(PAGE, f"−1.2 then comes back as −{-twice[1]:.2f}")
    once = (example.decode(codes) - w).abs().max()
    said(PAGE, f"the largest error rises from {once:.2f} to {(twice - w).abs().max():.2f}")


def test_a_real_matrix_does_not_use_the_levels_equally():
    of = r": a level is used by ([\d.]+)% to ([\d.]+)%"
    low, high = printed(PAGE, "MiniLM, blocks of 64" + of)
    said(
        PAGE,
        f"the outermost codes for {low} % of its weights each, the commonest one for {float(high):.0f} %",
    )
    rarest, commonest = printed(PAGE, "normal, blocks of 64" + of)
    assert float(commonest) > 0.9 * float(high) and float(rarest) < 1.1 * float(low)
    said(PAGE, f"Normal numbers in blocks of 64 do nearly the same, {rarest} to {commonest} %")
    least, most = printed(PAGE, r"normal, 1 at 1\.85 s\.d\." + of)
    said(PAGE, f"they use each level about equally, {least} to {most} %")
    (deviation,) = printed(PAGE, r"divided by its block's absmax: (0\.\d+)")
    said(PAGE, f"The standard deviation above is {deviation}, not 1")
    said(PAGE, f"Of 64 weights the largest lies at about 1/{deviation} = {1 / float(deviation):.1f}")


def test_errors_of_four_bits():
    int4, fp4, nf4, affine = (
        printed(PAGE, rf"{name} +([\d.]+)%")[0] for name in ("int4", "fp4", "nf4", "int4, zero point")
    )
    said(PAGE, f"{nf4} % on MiniLM against {int4} % for symmetric int4")
    beaten, rival = (
        printed(PAGE, rf"{name} +[\d.]+% +(\d+) of 36")[0] for name in ("int4", "int4, zero point")
    )
    said(PAGE, f"symmetric int4, which it beats on {beaten} of 36 matrices")
    said(PAGE, f"int4 with a zero point has {affine} %, for a sixteenth of a bit more")
    said(PAGE, f"NF4 is ahead of it on {rival} of 36")
    said(PAGE, f"against {int4} % for symmetric int4 and {affine} % for int4 with a zero point")
    assert float(nf4) < float(affine) < float(int4) < float(fp4)


def test_the_format_that_a_model_was_stored_in():
    assert printed(PAGE, r"SmolLM2 +(0) +[\d.]+% +[\d.]+%")
    q4_1, affine, nf4 = printed(PAGE, r"MiniLM +([\d.]+)% +([\d.]+)% +([\d.]+)%")
    said(PAGE, f"Q4_1 has an error of {q4_1} % and NF4 {nf4} %")
    (smaller,) = printed(PAGE, r"Q4_1 has the smaller error on (\d+) of MiniLM's 36 matrices")
    said(PAGE, f"Q4_1's is smaller on {smaller} of 36 matrices")
    matrix = load_encoder("minilm")[0].bert.encoder.layer[2].intermediate.dense.weight.detach().float()
    back = quantize_affine(matrix.view(-1, 64), bits=4, block=64).dequantize().view_as(matrix)
    longer = 100 * ((back - matrix).square().sum() / matrix.square().sum()).item()
    assert longer - float(affine) > 2 * (float(affine) - float(q4_1)) > 0, "mostly the blocks"
    said(PAGE, f"int4 with a zero point, {longer:.2f} % on this matrix in blocks of 64, has {affine} % in blocks of 32")


def test_what_fitted_levels_gain():
    (less,) = printed(PAGE, r"with fitted levels [\d.]+%: −(\d+)%")
    said(PAGE, f"a fitted table has {less} % less error than NF4")
    (normal,) = printed(PAGE, r"levels fitted to normal numbers [\d.]+%: −(\d+)%")
    said(PAGE, f"in the same way to normal numbers has {normal} % less: most of the gain")
    assert int(less) / 2 < int(normal) <= int(less)
    low, high = printed(PAGE, r"of the fitted levels one is used by ([\d.]+)% to ([\d.]+)% of the weights")
    least, most = printed(PAGE, r"MiniLM, blocks of 64: a level is used by ([\d.]+)% to ([\d.]+)%")
    assert float(least) <= float(low) < float(least) + 0.5 and float(most) - 0.5 < float(high) <= float(most)
    said(PAGE, f"The fitted levels are used hardly more equally, by {low} to {high} %")
    nf4, fitted = printed(PAGE, r"with NF4 ([\d.]+)%, with fitted levels ([\d.]+)%")
    said(PAGE, f"worth about {math.log(float(nf4) / float(fitted), 4):.2f} bits")


def test_what_the_open_exercise_has_to_beat():
    least = codebook.WORSE * codebook.NEAR  # what the generator asks of every case
    assert int(100 * least) == 108
    said(PAGE, "an error at most 6 % above that of the course's own")
    assert codebook.WORSE == 1.06
    above = []
    for kind in range(codebook.CODEBOOK.kinds):
        for i in range(5):
            x, block = codebook.CODEBOOK.secret(Draw(b"exercise", str(i), kind))
            own = codebook.squared_error(x, codebook.codebook(x, block), block)
            above.append(codebook.squared_error(x, code("nf4").double(), block) / own)
    assert min(above) > least and 1.2 < median(above) < 1.5
    said(PAGE, "NF4's is at least 8 % above it, often a third")


def test_what_double_quantization_costs():
    (more,) = printed(PAGE, r"squared error: [\d.]+% → [\d.]+%, ([\d.]+)% more")
    said(PAGE, f"for {more} % more error (relative)")
    said(PAGE, f"instead of 4.5, for {float(more):.1f} % more error")


def test_bits_of_the_formats():
    nf4, four = (quantize_blockwise(torch.ones(64, 64), name).bits for name in ("nf4", "int4"))
    levels = [len(code(name).unique()) for name in ("int4", "fp4", "nf4")]
    assert levels == [15, 15, 16] and nf4 == four == 4.5
    affine = quantize_affine(torch.randn(64, 64), bits=4, block=64)
    assert affine.codes.unique().numel() == 16
    said(PAGE, "for a sixteenth of a bit more")  # a zero point of four bits for 64 weights
    assert quantize_blockwise(torch.ones(64, 64), "nf4", 32).bits == 4 + 2 * 16 / 32 == 5
    said(PAGE, "As stored here both take 5 bits a weight: four, and two fp16 numbers or one in fp32 for 32 weights")
    matrix = load_encoder("minilm")[0].bert.encoder.layer[2].intermediate.dense.weight.detach().float()
    plain, double = (measured_error(matrix, "nf4", 32, twice).squared for twice in (False, True))
    assert f"{plain:.2%}" == f"{double:.2%}"
    bits = quantize_blockwise(matrix, "nf4", 32, double=True).bits
    said(PAGE, f"With 8-bit scales (section 7) NF4 takes {bits:.2f} for the same {double:.2%}".replace("%", " %"))
    said(PAGE, f"={4 + 8 / 64 + 32 / (64 * 256):.3f}$ bits instead of {nf4}")


def test_where_the_outermost_probability_comes_from():
    assert f"{1 - (1 / 32 + 1 / 30) / 2:.4f}" == "0.9677" == f"{tail(4):.4f}"
    said(PAGE, "halfway between $1-\\frac1{32}$ and $1-\\frac1{30}$")


def test_what_a_whole_model_takes():
    model = load_decoder("smollm2")[0]
    rounded = sum(m.weight.numel() for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear))
    whole, embedding = model.num_parameters(), model.get_input_embeddings().weight.numel()
    assert 0 < whole - rounded - embedding < 2e-3 * embedding, "the norms"
    codes, rest = rounded * (4 + 8 / 64 + 32 / (64 * 256)) / 8, 2 * (whole - rounded)
    said(PAGE, f"SmolLM2's take {codes / 1e6:.1f} MB; its embedding and norms stay in 16 bits, {rest / 1e6:.1f} MB")
    assert printed(PAGE, r"SmolLM2: ([\d.]+) MB, and ([\d.]+) MB") == (f"{codes / 1e6:.1f}", f"{rest / 1e6:.1f}")
    both = codes + rest
    assert printed(PAGE, r"not rounded: (\d+) MB") == (f"{both / 1e6:.0f}",)
    said(PAGE, f"is {both / 1e6:.0f} MB instead of {2 * whole / 1e6:.0f}, a factor of {2 * whole / both:.1f}")


def test_what_a_larger_model_takes():
    config = llama_config("7B")
    outside = 2 * config.vocab_size * config.hidden_size  # embedding and head
    inside = config.num_hidden_layers * (4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size)
    after = inside * (4 + 8 / 64 + 32 / (64 * 256)) / 8 + 2 * outside
    share, factor = outside / (inside + outside), 2 * (inside + outside) / after
    said(PAGE, f"In Llama-7B embedding and head are {share:.0%} of the weights".replace("%", " %"))
    said(PAGE, f"and the factor is {factor:.1f}")
