r"""Number formats against the bits that they are made of."""

import itertools

import pytest

from coursekit.quantization.formats import numbers


def _by_the_bits(exponent: int, mantissa: int, bias: int, top: int) -> set[float]:
    r"""Every number of a float with such fields; `top` exponents at the upper end stand for no number."""
    found = set()
    for e, m in itertools.product(range(2**exponent - top), range(2**mantissa)):
        size = (1 + m / 2**mantissa) * 2.0 ** (e - bias) if e else m / 2**mantissa * 2.0 ** (1 - bias)
        found |= {size, -size}
    return found


@pytest.mark.parametrize("name, exponent, mantissa, top", [
    ("fp16", 5, 10, 1), ("bf16", 8, 7, 1), ("fp8 e5m2", 5, 2, 1), ("fp8 e4m3", 4, 3, 0),
])  # fmt: skip
def test_the_numbers_are_what_the_bits_say(name, exponent, mantissa, top):
    expected = _by_the_bits(exponent, mantissa, 2 ** (exponent - 1) - 1, top)
    if name == "fp8 e4m3":  # no infinities; the last pattern alone is NaN
        expected -= {480.0, -480.0}
    assert set(numbers(name).tolist()) == expected
