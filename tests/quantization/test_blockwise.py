r"""Block-wise codes: to the bit those of bitsandbytes, and what must hold for any values."""

from contextlib import contextmanager

import bitsandbytes.functional as bnb
import pytest
import torch
from drawn import random
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.utils._python_dispatch import TorchDispatchMode

from coursekit import quantization as Q
from coursekit.errors import CourseError
from coursekit.quantization import blocks, blockwise, codes, double, fresh, fused, nearest
from coursekit.quantization.bit_stream import pack, packed_bytes, unpack
from coursekit.quantization.nearest import Nearest

pytestmark = pytest.mark.usefixtures("plain_bitsandbytes")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
each_type = pytest.mark.parametrize("code", ["nf4", "fp4"])
EVERY_CODE = [*(f"{kind}{bits}" for kind in ("nf", "int") for bits in range(2, 9)), "fp4"]
each_code = pytest.mark.parametrize("code", EVERY_CODE)


def assert_as_bitsandbytes(x: torch.Tensor, code: str, block: int = 64) -> Q.Blockwise:
    r"""Codes and scales to the bit; values, too, but for the sign of FP4's second zero."""
    q = Q.quantize_blockwise(x, code, block)
    packed, state = bnb.quantize_4bit(x, quant_type=code, blocksize=block)
    assert torch.equal(q.packed, packed.view(-1))
    assert torch.equal(q.absmax, state.absmax) and q.absmax.dtype == torch.float32
    ours, theirs = q.dequantize(), bnb.dequantize_4bit(packed, state).reshape(x.shape)
    assert ours.dtype == theirs.dtype == x.dtype and ours.shape == x.shape
    assert torch.equal(ours, theirs)
    return q


# bitsandbytes -----------------------------------------------------------------------------------------------


@each_type
@each_dtype
@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65, 100, 128, 1000, 4097, 2**18 + 65])
def test_codes_scales_and_values_are_bitsandbytes(size, dtype, code):
    assert_as_bitsandbytes(random(size).to(dtype), code)


@each_type
@pytest.mark.parametrize("block", [32, 128, 1024, 4096])
@pytest.mark.parametrize("shape", [(96, 100), (3, 5, 7), (1, 4096), (4096, 1)])
def test_other_blocks_and_shapes(shape, block, code):
    assert_as_bitsandbytes(random(*shape) * 3, code, block)


@each_type
@each_dtype
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, 0.37, -3e-5, 6e4])
@pytest.mark.parametrize("size", [64, 100, 129])
def test_constant_blocks(size, value, dtype, code):
    q = assert_as_bitsandbytes(torch.full((size,), value).to(dtype), code)
    assert torch.equal(q.dequantize(), torch.full((size,), value).to(dtype))  # nothing to lose: code -1, 0 or 1


@each_type
def test_ties_take_the_lower_level_as_bitsandbytes_does(code):
    ordered = codes.code(code).sort().values
    middles = (ordered[:-1] + ordered[1:]) / 2
    for value in (middles, middles.nextafter(torch.tensor(2.0)), middles.nextafter(torch.tensor(-2.0))):
        x = torch.cat([torch.tensor([1.0]), value, torch.zeros(64 - 1 - len(value))])
        q = assert_as_bitsandbytes(x, code)
        below = ordered[torch.arange(len(middles)) + (value > middles)]
        assert torch.equal(q.dequantize()[1 : 1 + len(value)], below)


@each_type
def test_numbers_too_small_or_too_large_to_invert(code):
    for scale in (1e-45, 1e-40, 1e-38, 1e-37, 3e38):
        for size in (64, 70):
            assert_as_bitsandbytes(random(size).clamp(-1, 1) * scale, code)


@each_type
def test_any_bits_at_all(code):
    r"""Every finite bf16 number there is, shuffled into blocks."""
    every = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16)
    every = every[every.isfinite()]
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    assert_as_bitsandbytes(every[order], code)
    assert_as_bitsandbytes(every.float().abs().sort().values, code, 32)


def test_other_memory_layouts_and_precisions():
    x = random(64, 96)
    straight = Q.quantize_blockwise(x.t().contiguous())
    assert torch.equal(Q.quantize_blockwise(x.t()).packed, straight.packed)
    wide = Q.quantize_blockwise(x.double())
    assert torch.equal(wide.packed, Q.quantize_blockwise(x).packed)
    assert wide.dequantize().dtype == torch.float64
    parameter = torch.nn.Parameter(x.clone())
    assert not Q.quantize_blockwise(parameter).dequantize().requires_grad
    assert torch.equal(parameter.detach(), x), "the tensor itself is left alone"


@pytest.mark.parametrize("setting", [
    lambda: torch.device("meta"), torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16),
    lambda: default_dtype(torch.float64), lambda: default_dtype(torch.bfloat16),
], ids=["device", "inference", "autocast", "fp64", "bf16"])  # fmt: skip
def test_tables_do_not_depend_on_what_is_set_when_they_are_made(setting):
    r"""They are kept for later calls, and loading a model sets a default device and dtype."""
    x = random(8, 72)
    expected = Q.quantize_blockwise(x, "fp4", double=True)
    values, scales = expected.dequantize(), expected.absmax.codes
    for kept in (blockwise._table, double._map, nearest._finder):
        kept.cache_clear()
    with setting():
        q = Q.quantize_blockwise(x, "fp4", double=True)
    assert torch.equal(q.packed, expected.packed) and torch.equal(q.absmax.codes, scales)
    weight = q.dequantize()
    assert torch.equal(weight, values)
    input = random(3, 72).requires_grad_()
    (input @ weight.t()).sum().backward()
    torch.testing.assert_close(input.grad, weight.sum(0).expand(3, 72))


@contextmanager
def default_dtype(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


def test_a_single_number():
    q = Q.quantize_blockwise(torch.tensor(3.5))
    assert q.shape == () and q.dequantize() == 3.5 and q.dequantize().shape == ()


# what must hold for any values ------------------------------------------------------------------------------

#: Numbers of every size that weights could have, and some they could not.
numbers = st.floats(-(2.0**100), 2.0**100, width=32).map(lambda x: x if abs(x) > 1e-30 else 0.0)
tensors = st.integers(1, 200).flatmap(lambda n: arrays.arrays("float32", n, elements=numbers)).map(torch.from_numpy)


@settings(max_examples=150, deadline=None)
@given(x=tensors, code=st.sampled_from(EVERY_CODE), block=st.sampled_from([8, 64, 72]))
def test_properties_of_any_code(x, code, block):
    q = Q.quantize_blockwise(x, code, block)
    y = q.dequantize()
    ordered = codes.code(code).sort().values.double()
    scale = q.absmax.double().repeat_interleave(block)[: len(x)]
    # Half the largest gap, and the rounding of 1 / absmax and of two products.
    bound = (ordered.diff().max() / 2 + 3 * 2**-24) * scale
    assert ((x.double() - y.double()).abs() <= bound).all()
    # A second time changes nothing.
    again = Q.quantize_blockwise(y, code, block)
    assert torch.equal(again.dequantize(), y)
    assert torch.equal(again.absmax, q.absmax)
    for ours, theirs in zip(x.split(block), y.split(block), strict=True):
        order = ours.argsort()
        assert (theirs[order].diff() >= 0).all(), "order within a block is kept"
    assert len(q.packed) == packed_bytes(len(x), int(code[-1]))


@each_code
def test_the_nearest_level_by_looking_at_all(code):
    x = random(2048, seed=1)
    q = Q.quantize_blockwise(x, code)
    levels, y = codes.code(code).double(), x.double() / q.absmax.double().repeat_interleave(64)
    found = (q.dequantize().double() / q.absmax.double().repeat_interleave(64) - y).abs()
    assert (found <= (levels - y[:, None]).abs().amin(1) + 1e-7).all()


# nearest level ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [*EVERY_CODE, "dynamic", "unsigned"])
def test_the_table_finds_what_the_search_finds(levels):
    if levels in ("dynamic", "unsigned"):
        levels = Q.dynamic_map(signed=levels == "dynamic")
    else:
        levels = codes.code(levels)
    find = Nearest(levels)
    assert find.table is not None
    ordered, index = levels.sort(stable=True)
    middles = (ordered[1:] + ordered[:-1]) / 2
    edges = torch.arange(0, 2**32, 2**16).to(torch.uint32).view(torch.float32)  # the first number of each cell
    edges = edges[edges.isfinite()]
    up, down = torch.tensor(torch.inf), torch.tensor(-torch.inf)
    y = torch.cat([middles, edges, levels, random(10**5), torch.tensor([0.0, -0.0, 1e-45, -1e-45])])
    y = torch.cat([y, y.nextafter(up), y.nextafter(down)])
    assert torch.equal(find(y), index[torch.bucketize(y, middles)].to(torch.uint8))
    assert torch.equal(find(y[:64].view(4, 16).t()), find(y[:64]).view(4, 16).t())  # of any shape


def test_levels_closer_than_the_cells_are_searched():
    levels = torch.tensor([-1.0, 0.5, 0.5001, 0.5002, 1.0])
    find = Nearest(levels)
    assert find.table is None
    assert find(torch.tensor([0.50004, 0.50006, 0.6, 0.9, -3.0])).tolist() == [1, 2, 3, 4, 0]


# storage ----------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(data=st.data(), bits=st.integers(1, 8))
def test_codes_are_one_stream_of_bits(data, bits):
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    fill = data.draw(st.integers(0, 2**bits - 1))
    packed = pack(torch.tensor(values, dtype=torch.uint8), bits, fill)
    stream = "".join(f"{byte:08b}" for byte in packed.tolist())
    assert len(packed) == packed_bytes(len(values), bits)
    assert stream[: len(values) * bits] == "".join(f"{v:0{bits}b}" for v in values)
    rest = stream[len(values) * bits :]
    assert rest == f"{fill:0{bits}b}" * (len(rest) // bits)
    assert unpack(packed, bits, len(values)).tolist() == values


def stored_bits(q: Q.Blockwise) -> float:
    r"""From the memory behind the tensors."""
    scales = q.absmax
    tensors = [q.packed, scales] if torch.is_tensor(scales) else [q.packed, *(
        value for value in vars(scales).values() if torch.is_tensor(value)
    )]  # fmt: skip
    return 8 * sum(t.untyped_storage().nbytes() for t in tensors) / q.shape.numel()


@each_code
def test_bits_a_parameter(code):
    q = Q.quantize_blockwise(random(64, 512), code)
    assert q.bits == stored_bits(q) == int(code[-1]) + 32 / 64
    double = Q.quantize_blockwise(random(64, 512), code, double=True)
    assert double.bits == stored_bits(double) == int(code[-1]) + 8 / 64 + 32 / (64 * 256) + 32 / (64 * 512)


def test_moving_to_a_device_moves_everything():
    q = Q.quantize_blockwise(random(64, 64), double=True).to("meta")
    assert {q.packed.device.type, q.absmax.codes.device.type, q.absmax.absmax.device.type} == {"meta"}
    assert Q.quantize_blockwise(random(64)).to("meta").absmax.device.type == "meta"


class Largest(TorchDispatchMode):
    r"""Bytes of the largest tensor that any operation makes; a view is none."""

    VIEWS = ("view", "slice", "detach", "alias", "unsqueeze", "select")

    def __init__(self):
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if torch.is_tensor(result) and "out" not in kwargs and func.overloadpacket.__name__ not in self.VIEWS:
            self.nbytes = max(self.nbytes, result.nbytes)
        return result


def test_nothing_as_large_as_the_tensor_is_made_on_the_way():
    x = random(2**21)
    q, out = Q.quantize_blockwise(x), torch.empty_like(x)
    for function in (lambda: Q.quantize_blockwise(x), lambda: q.dequantize(out)):
        with Largest() as largest:
            function()
        assert 2**20 <= largest.nbytes <= 4 * max(blocks.ENCODED, blocks.DECODED) < x.nbytes


# memory for the result --------------------------------------------------------------------------------------


@each_dtype
@each_code
def test_into_a_buffer(code, dtype):
    x = random(10, 72).to(dtype)
    q = Q.quantize_blockwise(x, code)
    buffer = torch.full((10, 72), torch.nan, dtype=dtype)
    assert q.dequantize(buffer) is buffer and torch.equal(buffer, q.dequantize())
    column = torch.full((72, 10), torch.nan, dtype=dtype).t()
    assert q.dequantize(out=column) is column and torch.equal(column, q.dequantize())
    inside = torch.full((721,), torch.nan, dtype=dtype)  # a view that starts at an odd address
    assert torch.equal(q.dequantize(out=inside[1:].view(10, 72)), q.dequantize()) and inside[0].isnan()


def test_a_buffer_in_another_precision_is_rounded_once():
    q = Q.quantize_blockwise(random(64, 64))
    full = q.dequantize()
    for dtype in DTYPES:
        buffer = torch.empty(64, 64, dtype=dtype)
        assert torch.equal(q.dequantize(buffer), full.to(dtype))


def test_large_results_are_ordinary_tensors(monkeypatch):
    monkeypatch.setattr(fresh, "LARGE", 1)
    x = random(100, 64)
    q = Q.quantize_blockwise(x)
    y = q.dequantize()
    assert y.shape == x.shape and y.is_contiguous() and torch.equal(y.clone(), y)
    weight = y.requires_grad_()
    (weight * 2).sum().backward()
    assert torch.equal(weight.grad, torch.full_like(x, 2.0))
    assert Q.quantize_blockwise(x[:0]).dequantize().shape == (0, 64)
    monkeypatch.delattr("mmap.MADV_HUGEPAGE", raising=False)
    assert torch.equal(q.dequantize(), y.detach())


def test_a_linux_without_large_pages(monkeypatch):
    class Refuses(fresh.mmap.mmap):
        def madvise(self, *_):
            raise OSError(22, "Invalid argument")

    q = Q.quantize_blockwise(random(64, 64))
    expected = q.dequantize()
    monkeypatch.setattr(fresh, "LARGE", 1)
    monkeypatch.setattr(fresh.mmap, "mmap", Refuses)
    assert torch.equal(q.dequantize(), expected)


# one kernel -------------------------------------------------------------------------------------------------


@each_dtype
@each_type
@pytest.mark.parametrize("size", [64, 128, 1000])
def test_the_fused_functions_compute_the_same(size, code, dtype, monkeypatch):
    x = random(size).to(dtype)
    plain = Q.quantize_blockwise(x, code)
    values, calls = plain.dequantize(), []
    monkeypatch.setattr(fused, "pays", lambda x, n, bits: bits == 4)
    monkeypatch.setattr(fused, "run", lambda f, *arguments: (calls.append(f), f(*arguments))[1])
    q = Q.quantize_blockwise(x, code)
    assert torch.equal(q.packed, plain.packed) and torch.equal(q.absmax, plain.absmax)
    assert torch.equal(q.dequantize(), values)
    assert calls == [fused.encode, fused.decode]


def test_without_a_compiler_the_plain_way_runs(monkeypatch):
    def compile_(function):
        def fail(*_):
            raise RuntimeError("no compiler here")

        return fail

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(fused, "_plain", set())
    tries = []

    def double(x: int) -> int:
        tries.append(x)
        return 2 * x

    assert [fused.run(double, 3), fused.run(double, 4)] == [6, 8] and tries == [3, 4]
    assert double in fused._plain, "it is not tried again"


@pytest.mark.slow
@each_type
def test_compiled_the_fused_functions_compute_the_same(code):
    q = Q.quantize_blockwise(random(64, 64), code)
    levels, x = codes.code(code), random(64, 64).view(64, 32, 2)
    find = Nearest(levels)
    with torch.compiler.set_stance("default"):
        packed, absmax = fused.compiled(fused.encode)(x, find.middles, find.index)
        assert torch.equal(packed.view(-1), q.packed) and torch.equal(absmax, q.absmax)
        values = fused.compiled(fused.decode)(packed, absmax, levels, torch.empty_like(x))
    assert torch.equal(values.view(64, 64), q.dequantize())


# bad input --------------------------------------------------------------------------------------------------


def test_a_buffer_of_another_shape():
    q = Q.quantize_blockwise(random(4, 64))
    with pytest.raises(CourseError, match=r"out is \(64, 4\) on cpu: give one of \(4, 64\) on cpu"):
        q.dequantize(torch.empty(64, 4))


# GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@each_dtype
@each_type
@pytest.mark.parametrize("size", [0, 1, 64, 1000, 2**16, fused.LARGE + 100])
def test_on_a_gpu_all_but_ties_is_bitsandbytes(size, code, dtype):
    r"""Its kernel and a compiled one may round 1 / absmax otherwise: only values in the middle of two levels differ."""
    x = random(size).to("cuda", dtype)
    q = Q.quantize_blockwise(x, code)
    assert q.packed.is_cuda and q.absmax.is_cuda
    if size == 0:
        assert q.dequantize().shape == (0,)
        return
    packed, state = bnb.quantize_4bit(x, quant_type=code)
    torch.testing.assert_close(q.absmax, state.absmax, rtol=0, atol=1e-38)
    values, theirs = q.dequantize(), bnb.dequantize_4bit(packed, state).view(-1)
    differ = values != theirs
    assert differ.float().mean() < 1e-4
    scale = q.absmax.repeat_interleave(64)[:size]
    tie = ((x.float() - values.float()).abs() - (x.float() - theirs.float()).abs()).abs()
    rounding = 2**-7 if dtype == torch.bfloat16 else 2**-10 if dtype == torch.float16 else 2**-21
    assert (tie[differ] <= rounding * scale[differ]).all()
    # Its codes, read by us.
    same = Q.Blockwise(packed.view(-1), state.absmax, code, 64, x.shape, dtype)
    assert torch.equal(same.dequantize(), theirs)
    assert torch.equal(q.to("cpu").dequantize(), values.cpu())


@pytest.mark.gpu
@each_code
def test_on_a_gpu_every_code_is_that_of_the_cpu(code):
    x = random(1000)
    here, there = Q.quantize_blockwise(x, code), Q.quantize_blockwise(x.cuda(), code)
    torch.testing.assert_close(there.absmax.cpu(), here.absmax, rtol=0, atol=0)
    gap = codes.code(code).sort().values.diff().max()
    differ = there.dequantize().cpu() != here.dequantize()
    assert differ.float().mean() < 2e-3
    assert ((there.dequantize().cpu() - here.dequantize()).abs() <= gap * here.absmax.max()).all()
    with pytest.raises(CourseError, match="infinities or NaN"):
        Q.quantize_blockwise(torch.full((100,), torch.nan, device="cuda"), code)
