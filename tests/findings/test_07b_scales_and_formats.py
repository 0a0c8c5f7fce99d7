r"""What notebook 07b says of formats on real weights, and of its own run of GPTQ."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from finding import printed, said

from coursekit.models import load_encoder
from coursekit.quantization import quantize_blockwise, quantize_hqq, quantize_microscaling

PAGE = "07b_scales_and_formats"
WAYS = {
    "int4": partial(quantize_blockwise, code="int4"),
    "NF4": quantize_blockwise,
    "NF4, blocks of 16": partial(quantize_blockwise, block=16, double=True),
    "HQQ": quantize_hqq,
    "MXFP4": quantize_microscaling,
    "NVFP4": partial(quantize_microscaling, format="nvfp4"),
}


@pytest.fixture(scope="module")
def matrices() -> list[torch.Tensor]:
    blocks = load_encoder("minilm", dtype="float32")[0].bert.encoder
    return [m.weight.detach() for m in blocks.modules() if isinstance(m, torch.nn.Linear)]


@pytest.fixture(scope="module")
def lost(matrices) -> dict[str, float]:
    r"""Squared error over squared size of all matrices together."""
    size = sum(W.square().sum() for W in matrices)
    return {
        name: (sum((q(W).dequantize() - W).square().sum() for W in matrices) / size).item()
        for name, q in WAYS.items()
    }


def table() -> dict[str, str]:
    r"""Format -> error in percent, as the page's own table has it."""
    names = {
        "int4, blocks of 64": "int4",
        "NF4, blocks of 64": "NF4",
        "NF4, blocks of 16, double": "NF4, blocks of 16",
        "HQQ, blocks of 64": "HQQ",
        "MXFP4": "MXFP4",
        "NVFP4": "NVFP4",
    }
    return {ours: printed(PAGE, rf"\n{name} +[\d.]+ +([\d.]+)%")[0] for name, ours in names.items()}


def test_formats_at_four_and_a_half_bits(matrices, lost):
    assert len(matrices) == 36
    for name in ("int4", "NF4", "NF4, blocks of 16", "NVFP4"):
        assert round(WAYS[name](matrices[0]).bits, 1) == 4.5
    found = table()
    said(PAGE, f"NF4 in blocks of 16, with {found['NF4, blocks of 16']} %")
    said(PAGE, f"NVFP4 has both too and loses more, {found['NVFP4']} %")
    said(PAGE, "NF4 in blocks of 64 loses nearly as much as NVFP4")
    assert 0 < float(found["NVFP4"]) - float(found["NF4"]) < 0.05
    said(PAGE, "the six formats of four bits stand in the same order")
    assert sorted(lost, key=lost.get) == sorted(found, key=lambda name: float(found[name]))


def test_mxfp4(matrices, lost):
    assert WAYS["MXFP4"](matrices[0]).bits == 4.25
    found = table()
    said(PAGE, f"loses {found['MXFP4']} %, half as much again as NVFP4")
    assert 1.45 < float(found["MXFP4"]) / float(found["NVFP4"]) < 1.6
    assert 1.45 < lost["MXFP4"] / lost["NVFP4"] < 1.6


def test_fewer_levels_can_be_used_more_evenly():
    e2m1, nf4 = (printed(PAGE, rf"'{name}': '([\d.]+) bits'")[0] for name in ("e2m1", "nf4"))
    said(PAGE, f"NF4, with {nf4} bits, and not 4")
    said(PAGE, f"cannot pass $\\log_2 15={math.log2(15):.2f}$: measured by that, E2M1, with {e2m1}")
    assert float(e2m1) / math.log2(15) > float(nf4) / 4 + 0.005


def test_below_blocks_of_256_a_wider_code_is_better():
    eighth, halved = (
        100 - int(printed(PAGE, pattern)[0])
        for pattern in (r"an eighth of it, at that rate: (\d+)%", r"0\.125 bits more, error left (\d+)%")
    )
    said(PAGE, f"the error falls by {halved} %; a wider code would take off {eighth} % for an eighth")
    assert eighth > halved + 3


def test_activations_need_a_zero_point():
    (ratio,) = printed(PAGE, r"activations +8 +[\d.]+% +[\d.]+% +([\d.]+)")
    said(PAGE, f"the zero point divides the error by {ratio}")
    said(PAGE, f"a factor of {ratio} for these activations at 8 bits")


def test_what_gptq_does_in_this_run():
    of = r"\s+([\d.]+)%" * 3
    plain, ours = (printed(PAGE, rf"\n{name}{of}") for name in ("rounded", "GPTQ"))
    said(PAGE, f"from {plain[2]} % to {ours[2]} %")
    said(PAGE, f"{plain[0]} % become {ours[0]} %")


def test_training_through_the_rounding_wins_back_a_part():
    ways = ("not rounded", "rounded afterwards", "trained through it", "the commoner answer always")
    plain, after, through, always = (float(printed(PAGE, rf"\n{way} +([\d.]+)")[0]) for way in ways)
    gain, half = printed(PAGE, r"2 bits, through minus afterwards: ([\d.]+) ± ([\d.]+) points")
    assert always < after < through < plain and float(gain) > float(half)
    said(PAGE, f"from {plain:.3f} to {after:.3f}; trained through the rounding it is {through:.3f}")
    said(PAGE, f"{gain} ± {half} points more on the same sentences")
    said(PAGE, f"The commoner answer always would get {always:.3f}")
    said(PAGE, f"({after:.3f} to {through:.3f}, of {plain:.3f})")
