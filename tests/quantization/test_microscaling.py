r"""MXFP4, MXFP8 and NVFP4 against torchao's bits (make_microscaling.py) and the specification."""

from pathlib import Path

import pytest
import torch
from drawn import random
from safetensors.torch import load_file

from coursekit.quantization import measured_error, quantize_microscaling
from coursekit.quantization.microscaling import E2M1, MICROSCALES, e2m1, e8m0, power

FIXTURE = load_file(Path(__file__).resolve().parents[1] / "fixtures" / "microscaling.safetensors")
INPUTS = [name for name in FIXTURE if "/" not in name]
STORED = [(name, format) for name in INPUTS for format in MICROSCALES if f"{name}/{format}/back" in FIXTURE]

each_format = pytest.mark.parametrize("format", MICROSCALES)


def as_bytes(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.uint8)


@pytest.mark.parametrize("name, format", STORED)
def test_elements_scales_and_values_are_torchaos_bits(name, format):
    theirs = {key: FIXTURE[f"{name}/{format}/{key}"] for key in ("elements", "scales", "back")}
    q = quantize_microscaling(FIXTURE[name], format)
    assert torch.equal(as_bytes(q.scales), theirs["scales"])
    if format == "nvfp4":
        assert torch.equal(q.tensor_scale, FIXTURE[f"{name}/nvfp4/tensor_scale"])
    ours, back = as_bytes(q.elements), q.dequantize()
    assert back.dtype == FIXTURE[name].dtype and back.shape == FIXTURE[name].shape
    # Blocks with the smallest scale of all: there torchao is not the specification (see the next test).
    same = (theirs["scales"] > 0) | (theirs["back"].unflatten(-1, (theirs["scales"].shape[-1], -1)) == 0).all(-1)
    for mine, other in ((ours, theirs["elements"]), (back.view(torch.int16), theirs["back"].view(torch.int16))):
        mine, other = (t.unflatten(-1, (same.shape[-1], -1))[same] for t in (mine, other))
        assert torch.equal(mine, other)
    assert same.all() or name in ("denormals", "any finite bits", "ties")


@each_format
def test_all_inputs_but_zeros_are_compared(format):
    assert len(INPUTS) == 13
    left_out = {"zeros", "denormals"} if format == "nvfp4" else set()
    assert {name for name, found in STORED if found == format} == set(INPUTS) - left_out


def nearest(x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    r"""By trying all; of two that are equally near, the one with an even place, as 0 is the last bit there."""
    gap = (x.double()[..., None] - levels.double()).abs()
    two = gap.topk(2, largest=False)
    tie = two.values[..., 0] == two.values[..., 1]
    return torch.where(tie & (two.indices[..., 0] % 2 == 1), two.indices[..., 1], two.indices[..., 0])


@pytest.mark.parametrize("format", ["mxfp4", "mxfp8 e4m3", "mxfp8 e5m2"])
def test_the_smallest_scale_is_as_specified_and_torchao_halves_what_it_scales(format):
    x, dtype = FIXTURE["denormals"], MICROSCALES[format].dtype
    smallest = (FIXTURE[f"denormals/{format}/scales"] == 0).repeat_interleave(32, -1)
    q = x[smallest].double() * 2.0**127
    if dtype is None:
        rounded = torch.tensor(E2M1)[nearest(q.abs(), torch.tensor(E2M1))].copysign(q)
    else:
        rounded = q.float().to(dtype).float()
    back = quantize_microscaling(x, format).dequantize()[smallest]
    assert torch.equal(back.double(), rounded.double() * 2.0**-127)
    theirs = FIXTURE[f"denormals/{format}/back"][smallest].double()
    assert abs(theirs.abs().sum() / back.double().abs().sum() - 0.5) < 0.01


def test_e2m1_is_the_nearest_of_all_and_ties_go_to_the_even_code():
    x = torch.cat([torch.linspace(0, 7, 7 * 64 + 1), 6 * random(1000).abs()])
    for size in (x, x.nextafter(torch.tensor(9.0)), x.nextafter(torch.tensor(0.0))):
        expected = nearest(size, torch.tensor(E2M1))
        assert torch.equal(e2m1(size).long(), expected)
        assert torch.equal(e2m1(-size).long(), expected + 8)  # -0 keeps its sign


def test_a_scale_is_the_power_of_two_below_the_absmax_over_that_of_the_largest_element():
    for exponent in (2, 8, 15):
        for k in (-120, -3, 0, 5, 127):
            below, at = torch.tensor([2.0**k]).nextafter(torch.tensor(0.0)), torch.tensor([2.0**k])
            expected = [max(2.0 ** (k - 1 - exponent), 2.0**-127), max(2.0 ** (k - exponent), 2.0**-127)]
            assert power(e8m0(torch.cat([below, at]), exponent)).tolist() == expected
    assert power(torch.arange(255).to(torch.uint8)).tolist() == [2.0 ** (b - 127) for b in range(255)]


def test_bits_are_those_of_the_specifications():
    x = random(64, 128)
    bits = {format: quantize_microscaling(x, format).bits for format in MICROSCALES}
    eight = 8 + 8 / 32
    tensor_scale = 32 / x.numel()
    assert bits == {"mxfp4": 4 + 8 / 32, "mxfp8 e4m3": eight, "mxfp8 e5m2": eight, "nvfp4": 4 + 8 / 16 + tensor_scale}


@each_format
def test_the_values_are_a_fixed_point_and_zero_stays_zero(format):
    x = random(16, 64)
    x[2, :32] = 0
    once = quantize_microscaling(x, format).dequantize()
    assert (once[2, :32] == 0).all()
    if format != "nvfp4":  # its scales are rounded, and with the largest value the scale may change
        assert torch.equal(quantize_microscaling(once, format).dequantize(), once)
    assert (quantize_microscaling(torch.zeros(2, 32), format).dequantize() == 0).all()


@each_format
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_those_of_fp32_rounded_once(format, dtype):
    x = random(4, 64).to(dtype)
    q, same = quantize_microscaling(x, format), quantize_microscaling(x.float(), format)
    assert torch.equal(as_bytes(q.elements), as_bytes(same.elements))
    assert q.dequantize().dtype == dtype and torch.equal(q.dequantize(), same.dequantize().to(dtype))
    largest = torch.full((1, 32), torch.finfo(torch.float16).max, dtype=torch.float16)
    assert quantize_microscaling(largest, format).dequantize().isfinite().all()


def test_what_a_scale_of_eight_bits_costs():
    r"""Beside the same elements with an fp32 scale: E4M3 next to nothing, a power of two a quarter of the error."""
    x = random(256, 512)
    for format, block, cost in (("nvfp4", 16, 1.02), ("mxfp4", 32, 1.27)):
        error = (quantize_microscaling(x, format).dequantize() - x).square().mean() / x.square().mean()
        assert abs(error / measured_error(x, "e2m1", block).squared - cost) < 0.01
