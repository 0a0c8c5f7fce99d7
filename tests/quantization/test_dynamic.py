r"""The dynamic map, and 8-bit codes against bitsandbytes' quantizer: the same but for its rounding, which is stated."""

import bitsandbytes.functional as bnb
import pytest
import torch
from drawn import random
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit import quantization as Q

STEPS = 2**16 - 1  # between -1 and 1, where bitsandbytes' quantizer for CPUs looks its codes up


def nearest(y: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    r"""By looking at every level, in fp64."""
    return (y.double()[..., None] - levels.double()).abs().argmin(-1).to(torch.uint8)


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_is_bitsandbytes(signed):
    levels = Q.dynamic_map(signed)
    assert torch.equal(levels, bnb.create_dynamic_map(signed=signed))
    assert levels.dtype == torch.float32 and len(levels.unique()) == 256 and (levels.diff() > 0).all()


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_by_decades(signed):
    r"""2^i values in decade i of each sign, their mean in its middle."""
    levels = Q.dynamic_map(signed).double()
    assert {0.0, 1.0} <= set(levels.tolist()) and levels.min() == pytest.approx(-0.99296875 if signed else 0)
    for i in range(7):
        low, high = 10.0 ** (i - 7), 10.0 ** (i - 6)
        inside = levels[(levels > low) & (levels < high)]
        assert len(inside) == 2 ** (i if signed else i + 1)
        assert inside.mean().item() == pytest.approx(0.55 * high, rel=1e-6)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 5000, 2**18 + 300])
def test_where_bitsandbytes_gives_another_code_ours_is_nearer(size, dtype, signed):
    x = random(size).to(dtype)
    x = x if signed else x.abs()
    levels = Q.dynamic_map(signed)
    codes, absmax = Q.quantize_8bit(x, levels)
    theirs, state = bnb.quantize_blockwise(x, code=levels.clone(), blocksize=256)
    assert torch.equal(absmax, state.absmax)
    y = x.double() / absmax.double().repeat_interleave(256)[:size]
    differ = codes != theirs
    assert differ.float().mean() <= (0.005 if size >= 5000 else 0.05) if size else not differ.any()
    ours, other = ((levels.double()[c.long()] - y).abs()[differ] for c in (codes, theirs))
    assert (ours <= other + 2**-23).all(), "but for the rounding of y to fp32, where two are equally near"
    # What bitsandbytes does: the nearest level to the nearest of its steps. Of many the last thousands are enough.
    y, theirs, absmax = y[-5120:], theirs[-5120:], absmax[-20:]
    step = (y + 1) * STEPS / 2
    rounded = step.round() * 2 / STEPS - 1
    middles = (levels[1:] + levels[:-1]).double() / 2
    # In the middle of two steps or of two levels its fp32 arithmetic decides.
    clear = (step - step.floor() - 0.5).abs() > 0.01
    clear &= (rounded[:, None] - middles).abs().amin(1) > 1e-7
    assert clear.float().mean() > 0.9 or size < 5000
    assert torch.equal(nearest(rounded[clear], levels), theirs[clear])
    # Either code stands for the same number to both.
    assert torch.equal(Q.dequantize_8bit(theirs, absmax, levels), bnb.dequantize_blockwise(theirs, absmax=absmax,
                       code=levels, blocksize=256))  # fmt: skip


def test_ties_take_the_lower_value():
    levels = Q.dynamic_map()
    middles = (levels[1:] + levels[:-1]) / 2
    codes, absmax = Q.quantize_8bit(torch.cat([torch.ones(1), middles]), levels)
    assert absmax.tolist() == [1] and codes.tolist() == [255, *range(255)]


def test_a_block_of_zeros_is_zero():
    codes, absmax = Q.quantize_8bit(torch.zeros(300), Q.dynamic_map())
    assert codes.tolist() == [127] * 300 and not Q.dequantize_8bit(codes, absmax, Q.dynamic_map()).any()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 600), block=st.sampled_from([1, 7, 256]), signed=st.booleans())
def test_error_is_at_most_half_a_gap(seed, size, block, signed):
    levels = Q.dynamic_map(signed)
    x = random(size, seed=seed)
    x = x if signed else x.square()
    codes, absmax = Q.quantize_8bit(x, levels, block)
    y = Q.dequantize_8bit(codes, absmax, levels, block)
    scale = absmax.repeat_interleave(block)[:size]
    assert ((x - y).abs() <= (levels.diff().max() / 2 + 2**-22) * scale).all()
    assert (Q.dequantize_8bit(codes, absmax, levels, block) == levels[codes.int()] * scale).all()


@pytest.mark.gpu
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 256, 5000, 2**20 + 300])
def test_on_a_gpu(size, dtype, signed):
    r"""bitsandbytes' GPU quantizer has no steps, but inverts the scale by approximation: ties may differ by one."""
    x, levels = random(size).to("cuda", dtype), Q.dynamic_map(signed).cuda()
    x = x if signed else x.abs()
    codes, absmax = Q.quantize_8bit(x, levels)
    theirs, state = bnb.quantize_blockwise(x, code=levels.clone(), blocksize=256)
    assert torch.equal(absmax, state.absmax)
    assert (codes != theirs).float().mean() < 1e-3
    assert ((codes.int() - theirs.int()).abs() <= 1).all()
    values = Q.dequantize_8bit(theirs, absmax, levels)
    assert torch.equal(values, bnb.dequantize_blockwise(theirs, absmax=absmax, code=levels, blocksize=256))
