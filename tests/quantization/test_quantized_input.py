r"""What makes no sense is an error of one line, whatever a tensor is quantized to."""

import inspect
import math

import jaxtyping
import pytest
import torch

from coursekit import quantization as Q
from coursekit.errors import CourseError
from coursekit.qlora import PagedAdamW
from coursekit.quantization.affine import grid, quantize_affine
from coursekit.quantization.code_error import measured_error
from coursekit.quantization.codes import code
from coursekit.quantization.formats import numbers
from coursekit.quantization.normal_float import normal_float

ONES, MAP = torch.ones(64), Q.dynamic_map()
WIDTH = "bits must be an integer of at least 2 and of at most 8, such as 4; got {}"
STEP = "a step or a zero point is beyond fp16"
FLOATS = "must be a tensor of floating-point numbers; got {}"
NOT_FINITE = "infinities or NaN"
NO_SIZE = "has no size to measure an error against"


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    r"""Without the tests' type checks, which would stop wrong types before the code's own line is reached."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(("function", "arguments", "options", "said"), [
    # no tensor of weights
    *((function, (x, *more), {}, f"{name} {FLOATS.format(found)}")
      for function, name, more in (
          (quantize_affine, "x", ()), (Q.quantize_blockwise, "x", ()), (Q.quantize_hqq, "x", ()),
          (Q.quantize_microscaling, "x", ("mxfp4",)), (Q.quantize_8bit, "x", (MAP,)), (Q.quantize_absmax, "absmax", ()))
      for x, found in ((torch.arange(64), "torch.int64"), (None, "NoneType"), ([1.0], "list"))),
    (Q.quantize_8bit, (ONES, "nf4"), {}, f"code {FLOATS.format('str')}"),
    # numbers that no code stands for
    *((function, (torch.cat([ONES[1:], torch.tensor([bad])]), *more), options, said)
      for bad in (math.inf, -math.inf, math.nan)
      for function, more, options, said in (
          (quantize_affine, (), {}, NOT_FINITE), (quantize_affine, (), {"block": 1}, NOT_FINITE),
          (quantize_affine, (), {"symmetric": True}, NOT_FINITE), (Q.quantize_hqq, (), {}, STEP),
          (Q.quantize_microscaling, ("mxfp4",), {}, NOT_FINITE), (Q.quantize_microscaling, ("nvfp4",), {}, NOT_FINITE),
          (Q.quantize_8bit, (MAP,), {}, NOT_FINITE), (Q.quantize_absmax, (), {}, NOT_FINITE),
          *((Q.quantize_blockwise, (name, 64), {"double": double}, f"{NOT_FINITE}, which no code stands for")
            for name in ("nf4", "int8", "nf3") for double in (False, True)))),
    (Q.quantize_microscaling, (ONES.double() * 1e300, "mxfp8 e4m3"), {}, NOT_FINITE),
    (Q.quantize_hqq, (1e6 * torch.arange(64.0),), {}, STEP),
    # sizes
    (quantize_affine, (torch.empty(0),), {}, "the tensor is empty"),
    (Q.quantize_microscaling, (torch.ones(2, 0), "mxfp4"), {}, "the tensor is empty"),
    (Q.quantize_microscaling, (torch.ones(2, 33), "mxfp4"), {}, "must be a multiple of 32, such as 128; got 33."),
    (Q.quantize_microscaling, (torch.ones(2, 24), "nvfp4"), {}, "must be a multiple of 16, such as 64; got 24."),
    (Q.quantize_microscaling, (torch.tensor(1.0), "mxfp4"), {}, "must be a multiple of 32, such as 128; got 1."),
    (Q.quantize_hqq, (torch.ones(65),), {}, "x must hold a multiple of 64 values, such as 256; got 65."),
    (Q.quantize_hqq, (torch.ones(0),), {}, "x must hold a multiple of 64 values, such as 256; got 0."),
    *((measured_error, (w,), {}, NO_SIZE) for w in (torch.zeros(8), torch.empty(0))),
    (Q.dequantize_8bit, (*Q.quantize_8bit(torch.randn(1024), MAP), MAP), {"block": 512},
     "1024 codes in blocks of 512 have 2 scales, and here are 4"),
    # settings
    *((quantize_affine, (ONES,), {"bits": bits}, WIDTH.format(bits)) for bits in (1, 9, 4.0, True)),
    *((normal_float, (bits,), {}, WIDTH.format("")) for bits in (1, 9, 0, -4, 4.0, "4", True, None)),
    (Q.quantize_hqq, (ONES,), {"bits": 9}, WIDTH.format(9)),
    (quantize_affine, (ONES,), {"axis": 1}, "axis must be an integer of at least -1 and of at most 0; got 1"),
    (quantize_affine, (ONES,), {"axis": "rows"}, "axis must .* got 'rows'"),
    (quantize_affine, (ONES,), {"axis": 0, "block": 2}, "axis=0 and block=2: scales belong to one or the other"),
    (quantize_affine, (ONES,), {"block": 0}, "block must be a positive integer, such as 32; got 0"),
    (quantize_affine, (ONES,), {"block": 2.0}, "block must .* got 2.0"),
    (Q.quantize_blockwise, (ONES,), {"block": 0}, "block must be a positive integer, such as 64; got 0"),
    (Q.quantize_blockwise, (ONES,), {"block": 65}, "must be a multiple of 2 for codes of 4 bits, such as 64; got 65"),
    (Q.quantize_blockwise, (ONES, "nf3"), {"block": 68}, "block must be a multiple of 8 for codes of 3 bits"),
    (Q.quantize_hqq, (ONES,), {"block": 0}, "block must be an integer of at least 2, such as 64; got 0."),
    # names
    (Q.quantize_blockwise, (ONES, "nf44"), {}, r"unknown code 'nf44'; did you mean 'nf4'\?"),
    (code, ("nf44",), {}, r"unknown code 'nf44'; did you mean 'nf4'\?"),
    (code, (7,), {}, "known: e2m1, fp4, int2"),
    (Q.quantize_microscaling, (ONES, "mxfp5"), {}, r"unknown format 'mxfp5'; did you mean 'mxfp4'\?"),
    (numbers, ("fp9",), {}, "unknown format 'fp9'; did you mean"),
    (numbers, ("fp32",), {}, "unknown format that can be listed 'fp32'"),
    # flags
    *((function, arguments, {name: "no"}, f"{name} must be True or False; got 'no'") for function, arguments, name in (
        (grid, (0.0, 1.0), "symmetric"), (Q.quantize_blockwise, (ONES,), "double"), (Q.dynamic_map, (), "signed"),
        (PagedAdamW.__init__, (PagedAdamW.__new__(PagedAdamW), [torch.nn.Parameter(ONES)]), "fused"))),
])  # fmt: skip
def test_what_makes_no_sense_is_said(function, arguments, options, said):
    with pytest.raises(CourseError, match=said) as error:
        inspect.unwrap(function)(*arguments, **options)
    assert "\n" not in str(error.value)


def test_a_flag_is_named():
    with pytest.raises(TypeError):
        quantize_affine(ONES, 4, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("where", [0, 70, 129])
def test_one_number_anywhere_that_no_code_stands_for(dtype, where):
    x = torch.ones(130, dtype=dtype)
    x[where] = torch.nan
    with pytest.raises(CourseError, match=NOT_FINITE):
        Q.quantize_blockwise(x)
