r"""Code tables against bitsandbytes' own, and against the number formats that they are."""

import itertools

import pytest
import torch

from coursekit.quantization.codes import CODES, code


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_bitsandbytes_tables_in_its_order_to_the_bit(name):
    from bitsandbytes.functional import get_4bit_type

    theirs = get_4bit_type(name, device="cpu")
    assert torch.equal(code(name).view(torch.int32), theirs.view(torch.int32))


@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_are_bitsandbytes_linear_map(bits):
    r"""Its table is ascending and filled up with zeros; the distinct values are these. Its middle is not quite zero."""
    from bitsandbytes.functional import create_linear_map

    theirs = create_linear_map(signed=True, total_bits=bits).unique()
    theirs = theirs[torch.cat([torch.tensor([True]), theirs.diff() > 1e-6])]
    torch.testing.assert_close(code(f"int{bits}").unique(), theirs, atol=1e-7, rtol=0)


def test_int4_is_in_bitsandbytes_order():
    r"""The list in its source (which it cannot turn into a tensor itself: it holds whole numbers only)."""
    theirs = [7, 6, 5, 4, 3, 2, 1, 0, 0, -1, -2, -3, -4, -5, -6, -7]
    assert torch.equal(code("int4"), torch.tensor(theirs, dtype=torch.float32) / 7)


@pytest.mark.parametrize("name", CODES)
def test_every_table_is_whole(name):
    levels, bits = code(name), 4 if name in ("fp4", "e2m1") else int(name[-1])
    assert levels.shape == (2**bits,) and levels.dtype == torch.float32 and levels.device.type == "cpu"
    assert levels.max() == 1 and levels.min() == -1 and bool((levels == 0).any())
    if not name.startswith("nf"):  # as many below zero as above
        assert torch.equal(levels.sort().values, -levels.sort(descending=True).values)


def test_e2m1_is_what_the_bits_say():
    r"""Sign, two exponent bits with bias 1, one mantissa bit; subnormal where the exponent is 0."""
    for i, (s, e, m) in enumerate(itertools.product((0, 1), range(4), (0, 1))):
        value = (1 + m / 2) * 2 ** (e - 1) if e else m / 2
        assert float(code("e2m1")[i] * 6) == pytest.approx(-value if s else value)


def test_a_caller_may_change_what_it_gets():
    for name in CODES:
        code(name).zero_()
        assert code(name).max() == 1
