r"""The error that integration expects, against samples from the same normal and against closed forms."""

import math

import pytest
import torch

from coursekit.quantization.code_error import expected_error, measured_error


@pytest.mark.parametrize("name", ["nf4", "fp4", "e2m1", "int4", "nf2", "nf3", "int8"])
@pytest.mark.parametrize("block", [8, 64])
def test_expected_is_what_samples_show(name, block):
    w = torch.randn(2**19, generator=torch.Generator().manual_seed(0))
    seen, expected = measured_error(w, name, block), expected_error(name, block)
    # A million normal numbers divided over blocks: standard errors of at most 0.3 %, four of them allowed.
    assert seen.squared == pytest.approx(expected.squared, rel=0.012)
    assert seen.absolute == pytest.approx(expected.absolute, rel=0.006)


def test_two_weights_in_a_block_and_three_levels_by_hand():
    r"""B = 2, levels -1, 0, 1. The smaller costs $m^2 \min(t, 1 - t)^2$, t = |smaller| / |larger|; the larger nothing.

    t has density $4/(\pi(1 + t^2))$ on [0, 1] and does not depend on the radius. Here is the integral over t.
    """
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    # E[m^2] given t: the radius has E[r^2] = 2, and m = r / sqrt(1 + t^2).
    cost = torch.minimum(t, 1 - t).square() * 2 / (1 + t**2)
    expected = float((cost * 4 / (math.pi * (1 + t**2))).mean()) / 2
    assert expected_error("int2", 2).squared == pytest.approx(expected, rel=1e-5)


def test_a_block_of_one_costs_nothing():
    assert expected_error("nf4", 1) == (0.0, 0.0)


def test_many_small_steps_cost_a_twelfth_of_a_step_squared():
    r"""A uniform quantizer far below the width of the density: error uniform on a step, step = E[M^2]-sized."""
    block, steps = 64, 2 * 127
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    largest = torch.special.ndtri((1 + u ** (1 / block)) / 2)
    expected = float((2 * largest / steps).square().mean()) / 12 * (block - 1) / block
    assert expected_error("int8", block).squared == pytest.approx(expected, rel=2e-3)


def test_nf4_is_best_of_the_four_bit_codes_at_its_block():
    errors = {name: expected_error(name, 64).squared for name in ("nf4", "e2m1", "int4", "fp4")}
    assert sorted(errors, key=errors.get) == ["nf4", "e2m1", "int4", "fp4"]
    assert expected_error("nf8").squared > expected_error("int8").squared  # quantiles are not for eight bits


def test_measured_error_is_free_of_units():
    w = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    one, scaled = measured_error(w), measured_error(w * 0.03125)  # a power of two, so that no bit changes
    assert one == pytest.approx(scaled, rel=1e-9)
    rms = w.double().square().mean().sqrt()
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    theirs = dequantize_4bit(*quantize_4bit(w, quant_type="nf4", blocksize=64))
    assert one.absolute == pytest.approx(float((w - theirs).double().abs().mean() / rms), rel=1e-6)
