r"""What notebook 07 says of stored runs."""

import re
from dataclasses import replace
from functools import cache
from statistics import NormalDist, fmean, median

import torch
from finding import printed, read, said
from gguf import GGMLQuantizationType, quants

from coursekit.checks import check
from coursekit.checks import quantization_codebook as codebook
from coursekit.checks.draw import Draw
from coursekit.checks.quantization import blockwise
from coursekit.experiments import results
from coursekit.models import load_encoder
from coursekit.qlora.memory import claims, llama_config
from coursekit.qlora.model import quantizable
from coursekit.quantization import (
    code,
    decode_q4_1,
    grid,
    measured_error,
    quantize_absmax,
    quantize_affine,
    quantize_blockwise,
)
from coursekit.quantization.normal_float import tail

PAGE = "07_quantization"
FORMATS = results.read("formats")
NAMES = ["int8", "int4", "nf4", "nf3", "nf2"]
#: The table of section 8: one family.
TABLE = FORMATS.differences([f"full, {name}" for name in NAMES], "full")


@cache
def W() -> torch.Tensor:
    r"""The matrix of the page: MiniLM's third feed-forward layer."""
    return load_encoder("minilm")[0].bert.encoder.layer[2].intermediate.dense.weight.detach().float()


@cache
def matrices() -> list[torch.Tensor]:
    r"""The 36 matrices of MiniLM's blocks."""
    encoder = load_encoder("minilm", dtype="float32")[0]
    return [encoder.get_submodule(path).weight.detach() for path in quantizable(encoder) if "pooler" not in path]


def equal_steps(x: torch.Tensor, block: int, small: bool = False) -> float:
    r"""Squared error of int4 with a zero point, relative. small: the steps in 8 bits, too."""
    q = quantize_affine(x.reshape(-1, block), bits=4, block=block)
    step = q.grid.scale
    if small:
        step = quantize_absmax(step.flatten()).dequantize().view_as(step)
    back = (step * (q.codes - q.grid.zero)).view_as(x)
    return ((back - x).square().sum() / x.square().sum()).item()


def as_in_q4_0(x: torch.Tensor) -> float:
    r"""Squared error of sixteen equal steps, a block's largest weight at -8, the steps in 8 bits, relative."""
    blocks = x.reshape(-1, 64)
    far = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    step = quantize_absmax(far.abs().flatten() / 8).dequantize().view_as(far) * -far.sign()
    codes = (blocks / step).round().clamp(-8, 7)
    assert (codes.gather(1, blocks.abs().argmax(1, keepdim=True)) == -8).double().mean() > 0.99
    return ((codes * step - blocks).square().sum() / x.square().sum()).item()


def in_nf4_with_half_scales(x: torch.Tensor) -> float:
    r"""Squared error of NF4 in blocks of 16 with a scale in fp16, relative."""
    q = quantize_blockwise(x, "nf4", 16)
    back = replace(q, absmax=q.absmax.half().float()).dequantize().view_as(x)
    return ((back - x).square().sum() / x.square().sum()).item()


def in_q4_1(x: torch.Tensor) -> float:
    r"""Squared error of Q4_1 as the package gguf writes it, relative."""
    back = decode_q4_1(torch.from_numpy(quants.quantize(x.cpu().numpy(), GGMLQuantizationType.Q4_1)))
    return ((back - x).square().sum() / x.square().sum()).item()


def signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def test_eight_and_four_bits():
    eight, nf4, int4 = (TABLE[f"full, {name}"] for name in ("int8", "nf4", "int4"))
    double = FORMATS.difference("full, nf4, double", "full")
    assert {d.verdict for d in (eight, nf4, int4, double)} == {"equal for practical purposes"}
    assert eight.low < 0 < eight.high
    said(PAGE, "Eight bits cost nothing that we can see")
    assert min(nf4.low, int4.low, double.low) > -0.03
    said(PAGE, "Four bits cost a classifier less than 3 points of accuracy, two bits 14")
    said(PAGE, f"equal for practical purposes: {nf4.in_points().replace(' (', ' points (')}")


def test_nf4_and_int4_are_equal_in_accuracy():
    found = FORMATS.difference("full, nf4", "full, int4")
    assert found.verdict == "equal for practical purposes"
    said(PAGE, f"NF4 minus int4 is {signed(found.value)} points ({signed(found.low)} to {signed(found.high)})")


def test_two_bits():
    found = TABLE["full, nf2"]
    assert found.verdict == "worse"
    assert printed(PAGE, r"\n *nf2 .* (−[\d.]+) \(.* worse\n") == (signed(found.value),)
    assert TABLE["full, nf3"].verdict == "no clear difference"
    assert round(-100 * found.value) == 14
    said(PAGE, f"Two bits cost {-100 * found.value:.1f} points. For three there is no clear difference.")


# The notebook's own run ------------------------------------------------------------------------------------


def test_what_bits_cost_the_language_model():
    loaded, int8, nf4, nf3, nf2 = (
        float(printed(PAGE, rf"\n{name} +([\d.e+]+)\n?")[0]) for name in ("as loaded", "int8", "nf4", "nf3", "nf2")
    )
    said(PAGE, f"NF4 multiplies the perplexity by {nf4 / loaded:.2f}, NF3 by {nf3 / loaded:.1f}")
    said(PAGE, "SmolLM2's weights had been rounded before we loaded them")
    said(PAGE, "Eight bits change next to nothing")
    assert abs(int8 / loaded - 1) < 0.005
    assert printed(PAGE, r"the first row of the file is the model's: (True)")
    assert nf2 > 49_152
    said(PAGE, "the vocabulary has 49,152")
    said(PAGE, "It breaks at two bits: with NF2 the model is worse than one that guesses evenly")


def test_a_code_is_cut_off_at_the_ends():
    # Both halves round to even here, so the sum of the two is a sixteenth step: hence the cut.
    even = grid(torch.tensor(-7.5), torch.tensor(7.5), bits=4)  # steps of 1
    assert round(7.5) + int(even.zero) == 16 and int(even.encode(torch.tensor([7.5]))) == 15
    said(PAGE, r"q=\operatorname{clip}\Bigl(\operatorname{round}\Bigl(\frac xs\Bigr)+z,\;0,\;2^k-1\Bigr)")


def test_the_table_of_section_3_serves_any_right_answer():
    sources = "\n".join(cell.source for cell in read(PAGE).cells)
    (line,) = re.findall(r"^int4, first = (.*), W\[:64\]", sources, re.MULTILINE)
    table = eval(line, {"levels_of": code})
    assert (table.diff() > 0).all() and len(table) == 15
    assert len(code("int4")) == 16 and (code("int4") == 0).sum() == 2
    said(PAGE, "The table is symmetric int4: fifteen equally spaced levels from −1 to 1; "
               "the sixteenth code is a second zero")  # fmt: skip
    said(PAGE, "The one below is symmetric, without a zero point")

    def bisecting(x, levels, block):  # uses that the levels ascend, as the exercise says
        y = x.view(-1, block)
        absmax = y.abs().amax(1)
        at = torch.bucketize(y / absmax[:, None], (levels[1:] + levels[:-1]) / 2)
        return absmax, (levels[at] * absmax[:, None]).flatten()

    assert check("quantization-blockwise", bisecting).status == "passed"
    x = W().double().flatten()[:4096]
    for own, course in zip(bisecting(x, table, 64), blockwise(x, table, 64), strict=True):
        assert torch.allclose(own, course)


def test_outliers():
    one, blocks = printed(PAGE, r"outlier of 20: error (\d+)% with one scale, ([\d.]+)% in blocks")
    step = 20 * code("int4").unique().diff().max().item()
    said(PAGE, f"With one scale the others have an error of {one} %: "
               f"the levels are $20/7={step:.1f}$ apart, and all below {step / 2:.1f} becomes zero")  # fmt: skip
    said(PAGE, f"One outlier of 20 times the rms gives all other weights an error of {one} %; in blocks of 64 it is "
               f"{blocks} %.")  # fmt: skip
    said(PAGE, f"In blocks of 64 it is {blocks} %, for only the outlier's block is spoilt")
    many, of = printed(PAGE, r"beyond 20 standard deviations: in (\d) of (\d+) matrices")
    assert many == "8"
    said(PAGE, f"eight of MiniLM's {of} matrices have a weight beyond 20 standard deviations")
    assert int(of) == 6 * 6 and len(load_encoder("minilm")[0].bert.encoder.layer) == 6


def test_a_real_matrix_does_not_use_the_levels_equally():
    low, high = printed(PAGE, r"a level is used by ([\d.]+)% to ([\d.]+)% of the weights")
    said(PAGE, "NF4's levels are not used equally")
    said(PAGE, f"the outermost by {low} % of the weights each, the most used one by {float(high):.0f} %")
    levels = code("nf4").float()
    borders = (levels[1:] + levels[:-1]) / 2
    shares, ends = [], []
    for x in (W(), torch.randn(W().shape, generator=torch.Generator().manual_seed(0))):  # real weights, normal numbers
        blocks = (x / x.std()).view(-1, 64)
        absmax = blocks.abs().amax(1, keepdim=True)
        shares.append(torch.bucketize(blocks / absmax, borders).flatten().bincount(minlength=16) / x.numel())
        ends.append(absmax.mean().item())
    real, normal = shares
    assert (real[0] - real[-1]).abs() < 0.002 and real.min() == min(real[0], real[-1])
    assert normal.max() > 0.9 * real.max() and normal.min() < 1.1 * real.min()  # so it is the blocks that do that
    assert min(ends) > 1.3 * NormalDist().inv_cdf(tail(4))  # where NF4's idea has the outermost level
    said(PAGE, "The blocks do that: the largest of 64 weights lies far out, and the levels are stretched to reach it")


def test_int4_with_a_zero_point_reaches_from_the_block_s_minimum_to_its_maximum():
    def error(levels):
        back = blockwise(W().flatten(), levels, 64)[1].view_as(W())
        return ((back - W()).square().sum() / W().square().sum()).item()

    fifteen, sixteen = error(code("int4").unique()), error(torch.linspace(-1, 1, 16))
    own = equal_steps(W(), 64)
    assert 0 < fifteen - sixteen < sixteen - own
    blocks = W().view(-1, 64)
    q = quantize_affine(blocks, bits=4, block=64)
    for end, code_at_end in ((blocks.amin(1), 0), (blocks.amax(1), 15)):
        reached = (q.grid.scale * (code_at_end - q.grid.zero)).view(-1)
        assert ((reached - end).abs() <= q.grid.scale.view(-1) / 2 + 1e-6).all()


def test_the_format_that_a_model_was_stored_in():
    nf4, q4_1 = zip(*(printed(PAGE, rf"\n{name} +([\d.]+) +([\d.]+)") for name in ("SmolLM2", "MiniLM")), strict=True)
    assert q4_1[0] == "0" and float(nf4[0]) > 0.5
    assert printed(PAGE, r"the first row of the file is the model's: (True)")
    assert abs(float(nf4[0]) / float(nf4[1]) - 1) < 0.05
    said(PAGE, "On SmolLM2 the comparison is rigged: Q4_1 has no error, for the weights that we load are already its "
               "values. MiniLM was never rounded: there the two are 0.01 points apart.")  # fmt: skip
    assert round(abs(float(q4_1[1]) - float(nf4[1])), 2) == 0.01
    said(PAGE, "So section 1 compares numbers of bits, not formats.")
    assert printed(PAGE, r"5 bits a weight, error of +NF4 \(%\) +(Q4_1) \(%\)")
    # The page's scales are in fp32 and counted as fp16, with which it has the same digits.
    ours, stored = [in_nf4_with_half_scales(x) for x in matrices()], [in_q4_1(x) for x in matrices()]
    assert 0 < fmean(ours) / fmean(stored) - 1 < 0.01
    assert f"{in_nf4_with_half_scales(W()):.2%}" == f"{nf4[1]}%"


def test_at_the_bits_of_qlora_nf4_loses_least():
    bits, more = (4 + (8 + zero) / k + 32 / (k * 256) for k, zero in ((64, 0), (96, 4)))
    assert 0 <= bits - more < 0.005 and f"{bits:.2f}" == f"{more:.2f}"
    errors = {
        "NF4": [measured_error(x, "nf4", 64, True).squared for x in matrices()],
        "int4 as in Q4_0": [as_in_q4_0(x) for x in matrices()],
        "int4 with a zero point": [equal_steps(x, 96, True) for x in matrices()],
    }
    nf4, *rivals = errors.values()
    assert all(sum(a < b for a, b in zip(nf4, rival, strict=True)) > 30 for rival in rivals)
    symmetric = fmean(measured_error(x, "int4", 64, True).squared for x in matrices())
    assert max(map(fmean, rivals)) < symmetric
    assert printed(PAGE, r"Q4_0's steps have a sign: (1/64) bit more")
    shown = {name: f"{100 * fmean(own):.2f}" for name, own in errors.items()}
    zero_point = shown.pop("int4 with a zero point")
    assert zero_point > shown["int4 as in Q4_0"] > shown["NF4"]  # the page has the stronger rival alone
    for name, error in shown.items():
        assert printed(PAGE, rf"\n{name} +([\d.]+)%") == (error,)
    assert printed(PAGE, r"\n?([\d.]+) bits a weight +error\n") == (f"{bits:.2f}",)
    nf4, steps = shown.values()
    said(PAGE, f"At QLoRA's {bits:.2f} bits NF4 loses less, {nf4} % against {steps} %.")
    said(PAGE, f"At {bits:.2f} bits its error is {nf4} %, that of equal steps {steps} %.")


def test_in_shorter_blocks_integers_with_a_zero_point_overtake_nf4():
    own = [measured_error(x, "nf4", 16, True).squared for x in matrices()]
    rival = [equal_steps(x, 24, True) for x in matrices()]
    assert sum(a < b for a, b in zip(own, rival, strict=True)) < 6
    said(PAGE, "In shorter blocks integers with a zero point overtake it (07b)")
    nf4, steps = (
        float(printed("07b_scales_and_formats", rf"\n{name} +[\d.]+ +([\d.]+)%")[0])
        for name in ("NF4, blocks of 16", "int4, zero point, blocks of 24")
    )
    assert steps < nf4


def test_what_the_paper_has_for_nf4():
    int4, nf4 = (claims()[f"pile_{name}"] for name in ("int4", "nf4"))
    assert "125M to 13B" in int4.says and "double quantization" in nf4.says and int4.where == nf4.where == "table 2"
    said(PAGE, f"In QLoRA's paper it shows in perplexity, {nf4.value:.1f} against {int4.value:.1f} (Table 2)")
    said(PAGE, "One small classifier on an easy task cannot contradict the paper.")


def test_what_fitted_levels_gain():
    (less,) = printed(PAGE, r"with fitted levels [\d.]+%: −(\d+)%")
    said(PAGE, f"levels fitted by Lloyd's algorithm have {less} % less error than NF4")
    (normal,) = printed(PAGE, r"levels fitted to normal numbers [\d.]+%: −(\d+)%")
    said(PAGE, f"Fitted to normal numbers they have {normal} % less: most of the gain")
    assert int(less) / 2 < int(normal) <= int(less)


def test_what_the_open_exercise_has_to_beat():
    least = codebook.WORSE * codebook.NEAR  # what the generator asks of every case
    assert int(100 * least) == 108
    said(PAGE, "at most 6 % above the error of the course's own levels")
    assert codebook.WORSE == 1.06
    above = []
    for kind in range(codebook.CODEBOOK.kinds):
        for i in range(5):
            x, block = codebook.CODEBOOK.secret(Draw(b"exercise", str(i), kind))
            own = codebook.squared_error(x, codebook.fitted(x, block), block)
            above.append(codebook.squared_error(x, code("nf4").double(), block) / own)
    assert min(above) > least and 1.2 < median(above) < 1.5
    said(PAGE, "NF4's error is at least 8 % above it, often a third")


def test_what_double_quantization_costs():
    once, twice = map(float, printed(PAGE, r"\nerror: ([\d.]+)% → ([\d.]+)%"))
    assert once < twice < 1.003 * once
    said(PAGE, "instead of 4.5, for hardly more error")
    plain, small = (fmean(measured_error(x, "nf4", 64, double).squared for x in matrices()) for double in (False, True))
    assert 1 < small / plain < 1.003


def test_bits_of_the_formats():
    nf4, four = (quantize_blockwise(torch.ones(64, 64), name).bits for name in ("nf4", "int4"))
    levels = [len(code(name).unique()) for name in ("int4", "nf4")]
    assert levels == [15, 16] and nf4 == four == 4.5
    said(PAGE, "Symmetric int4 wastes a code on a second zero. llama.cpp's Q4_0 uses all sixteen, from −8, the "
               "block's largest weight, to 7.")  # fmt: skip
    affine = quantize_affine(torch.randn(64, 64), bits=4, block=64)
    assert affine.codes.unique().numel() == 16
    assert affine.grid.zero.numel() == 64 and affine.grid.zero.max() < 16  # four bits for each 64 weights
    q = quantize_blockwise(torch.ones(64, 64), "nf4", 16)
    assert replace(q, absmax=q.absmax.half()).bits == 4 + 16 / 16 == 4 + 2 * 16 / 32 == 5
    said(PAGE, "Q4_1 takes 5 bits a weight, as does NF4 in blocks of 16 with fp16 scales")
    steps = quantize_absmax(torch.rand(9216)).nbytes / 9216  # bytes a step, as stored
    stored = f"{quantize_blockwise(W(), 'nf4', 16, double=True).bits:.3f}", f"{4 + (8 * steps + 4) / 24:.3f}"
    assert stored == tuple(f"{4 + (8 + zero) / n + 32 / (n * 256):.3f}" for n, zero in ((16, 0), (24, 4)))
    said(PAGE, f"={4 + 8 / 64 + 32 / (64 * 256):.3f}$ bits instead of {nf4}")


def test_the_outermost_probability():
    assert abs(1 - (1 / 32 + 1 / 30) / 2 - tail(4)) < 1e-7
    said(PAGE, f"For NF4 bitsandbytes takes {tail(4):.4f}.")
    for k, (all_levels, one_less) in {3: (8, 7), 2: (4, 3)}.items():
        assert abs(1 - (1 / (2 * all_levels) + 1 / (2 * one_less)) / 2 - tail(k)) < 1e-7
    said(PAGE, "NF3 and NF2 are ours")


def test_what_a_larger_model_takes():
    config = llama_config("7B")
    outside = 2 * config.vocab_size * config.hidden_size  # embedding and head
    inside = config.num_hidden_layers * (4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size)
    bits = 4 + 8 / 64 + 32 / (64 * 256)
    after = inside * bits / 8 + 2 * outside
    weights = (inside + outside) / 1e9
    said(PAGE, f"Llama-7B shrinks from {2 * weights:.1f} GB to {after / 1e9:.1f}; embedding and head stay in 16 bits.")
    said(PAGE, f"takes {bits:.3f} bits; Llama-7B shrinks from {2 * weights:.1f} GB to {after / 1e9:.1f}.")
