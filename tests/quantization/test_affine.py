r"""Affine quantization: the lecture's numbers, torch's own quantizer, and what must hold for any numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.quantization.affine import Grid, grid, quantize_affine

LECTURE = [0.35, -1.2, 2.7, -0.45]

numbers = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=80)
widths, either = st.integers(2, 8), st.booleans()
groups = st.sampled_from([{}, {"axis": 0}, {"block": 1}, {"block": 7}, {"block": 32}])
quickly = settings(max_examples=80, deadline=None)


# the lecture --------------------------------------------------------------------------------------------------


def test_the_lecture_s_example_to_the_digit():
    q = quantize_affine(torch.tensor(LECTURE, dtype=torch.float64))
    assert q.grid.scale.item() == 0.26 and q.grid.zero.item() == 5
    assert q.codes.tolist() == [6, 0, 15, 3]
    assert q.dequantize().tolist() == [0.26, -1.3, 2.6, -0.52]


def test_the_lecture_s_double_quantization_to_the_digit():
    r"""Scale in 16 steps from 0 to 1, zero point from 0 to 10; the slides round both steps to four digits."""
    for_scale, for_zero = grid(0.0, 1.0), grid(0.0, 10.0)
    s, z = (torch.tensor(x, dtype=torch.float64) for x in (0.26, 5.0))
    assert (for_scale.encode(s).item(), for_zero.encode(z).item()) == (4, 8)
    assert for_scale.scale.item() == pytest.approx(0.0667, abs=5e-5)
    assert for_zero.scale.item() == pytest.approx(0.6667, abs=5e-5)
    steps = (torch.tensor(round(g.scale.item(), 4), dtype=torch.float64) for g in (for_scale, for_zero))
    scale, zero = (code * step for code, step in zip((4, 8), steps, strict=True))
    assert scale.item() == pytest.approx(0.2668) and zero.item() == pytest.approx(5.3336)
    twice = Grid(scale, zero, 4).decode(torch.tensor([6, 0, 15, 3], dtype=torch.uint8))
    printed = torch.tensor([0.1778, -1.423, 2.579, -0.6225], dtype=torch.float64)
    torch.testing.assert_close(twice, printed, atol=5e-4, rtol=0)
    # The slide cuts the last one off, -0.6225, where rounding gives -0.6226.
    assert [round(x, 4) for x in twice.tolist()[::3]] == [0.1778, -0.6226]


# against torch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_torch_s_fake_quantizer_gives_the_same_values(bits, symmetric, axis):
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(bits))
    q = quantize_affine(x, bits, symmetric=symmetric, axis=axis)
    low, high = q.grid.ends
    scale, zero = q.grid.scale.flatten(), q.grid.zero.flatten().int()
    if axis is None:
        theirs = torch.fake_quantize_per_tensor_affine(x, scale.item(), zero.item(), low, high)
    else:
        theirs = torch.fake_quantize_per_channel_affine(x, scale, zero, axis, low, high)
    torch.testing.assert_close(q.dequantize(), theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
def test_torch_s_observer_chooses_the_same_scale_and_zero_point(symmetric):
    from torch.ao.quantization import MinMaxObserver

    x = torch.randn(200, generator=torch.Generator().manual_seed(1)) + 0.7
    scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    ends = {"quant_min": -127, "quant_max": 127} if symmetric else {"quant_min": 0, "quant_max": 255}
    observer = MinMaxObserver(dtype=torch.qint8 if symmetric else torch.quint8, qscheme=scheme, **ends)
    observer(x)
    scale, zero = observer.calculate_qparams()
    ours = quantize_affine(x, 8, symmetric=symmetric).grid
    assert ours.scale.item() == pytest.approx(scale.item(), rel=1e-6)
    assert ours.zero.item() == zero.item()


# what must hold for any numbers -------------------------------------------------------------------------------


def _rounding(x: torch.Tensor) -> float:
    r"""What fp32 itself may add to half a step: a few units in the last place of the largest number."""
    return 16 * torch.finfo(torch.float32).eps * float(x.abs().max())


@quickly
@given(numbers, widths, either, groups)
def test_nothing_is_further_off_than_half_a_step(values, bits, symmetric, group):
    x = torch.tensor(values)
    q = quantize_affine(x, bits, symmetric=symmetric, **group)
    step = q.grid.scale.expand(q.grid.scale.shape[0], group["block"]) if "block" in group else q.grid.scale
    half = (step.expand_as(x) if "block" not in group else step.reshape(-1)[: len(x)]) / 2
    assert bool(((q.dequantize() - x).abs() <= half + _rounding(x)).all())


@quickly
@given(numbers, widths, either)
def test_a_value_of_the_grid_stays_what_it_is(values, bits, symmetric):
    q = quantize_affine(torch.tensor(values), bits, symmetric=symmetric)
    assert torch.equal(q.grid.encode(q.dequantize()), q.codes)


@quickly
@given(numbers, widths, either)
def test_order_is_preserved(values, bits, symmetric):
    x = torch.tensor(values).sort().values
    q = quantize_affine(x, bits, symmetric=symmetric)
    assert bool((q.codes.int().diff() >= 0).all()) and bool((q.dequantize().diff() >= 0).all())


@quickly
@given(numbers, widths, either, groups)
def test_codes_fit_the_width_and_zero_stays_zero(values, bits, symmetric, group):
    x = torch.tensor([*values, 0.0])
    q = quantize_affine(x, bits, symmetric=symmetric, **group)
    low, high = q.grid.ends
    assert high - low == 2**bits - (2 if symmetric else 1)
    assert low <= int(q.codes.min()) and int(q.codes.max()) <= high
    assert q.dequantize()[-1] == 0
    assert bool((q.grid.zero == q.grid.zero.round()).all())
    assert low <= float(q.grid.zero.min()) and float(q.grid.zero.max()) <= high


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-30, 3e38, -3e38, 1e-44])
@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
def test_a_constant_tensor_comes_back(value, symmetric):
    x = torch.full((40,), value)
    found = quantize_affine(x, symmetric=symmetric, block=16).dequantize()
    torch.testing.assert_close(found, x, atol=1e-37, rtol=1e-6)


def test_the_whole_range_of_fp32_does_not_overflow():
    for largest in (torch.finfo(dtype).max for dtype in (torch.float32, torch.float16)):
        x = torch.tensor([-largest, 0.0, largest], dtype=torch.float32 if largest > 1e6 else torch.float16)
        found = quantize_affine(x).dequantize()
        assert found.dtype == x.dtype and found.isfinite().all() and found[1] == 0
        assert bool(((found.double() - x.double()).abs() <= largest / 15 * 1.001).all())


# groups -------------------------------------------------------------------------------------------------------


def test_blocks_and_channels_are_so_many_tensors():
    sizes = torch.tensor([[1.0], [9], [0.1], [3]])
    x = torch.randn(4, 24, generator=torch.Generator().manual_seed(0)) * sizes
    rows = torch.stack([quantize_affine(row).dequantize() for row in x])
    assert torch.equal(quantize_affine(x, axis=0).dequantize(), rows)
    assert torch.equal(quantize_affine(x, axis=-2).dequantize(), rows)
    assert torch.equal(quantize_affine(x, block=24).dequantize(), rows)
    assert torch.equal(quantize_affine(x.t(), axis=1).dequantize(), rows.t())
    short = quantize_affine(x.flatten()[:61], block=24)
    parts = [quantize_affine(p).dequantize() for p in x.flatten()[:61].split(24)]
    assert torch.equal(short.dequantize(), torch.cat(parts)) and short.grid.scale.shape == (3, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_come_back_as_they_came(dtype):
    x = torch.randn(64, generator=torch.Generator().manual_seed(0)).to(dtype)
    q = quantize_affine(x, 8)
    assert q.grid.scale.dtype == torch.float32 and q.dequantize().dtype == dtype
    assert torch.equal(q.dequantize(), quantize_affine(x.float(), 8).dequantize().to(dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("group", [{}, {"axis": 0}, {"block": 32}])
@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
def test_a_gpu_gives_the_same_codes(group, symmetric):
    x = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    here, there = (quantize_affine(t, 4, symmetric=symmetric, **group) for t in (x, x.cuda()))
    assert there.codes.is_cuda and torch.equal(there.codes.cpu(), here.codes)
    torch.testing.assert_close(there.dequantize().cpu(), here.dequantize(), atol=1e-6, rtol=1e-6)
