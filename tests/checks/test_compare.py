r"""What counts as the same value: every part of it, entry by entry, and no class of the student's own."""

import numpy as np
import pytest
import torch

from coursekit.checks.compare import Comparison


@pytest.mark.parametrize("expected", [torch.tensor(1.0), torch.ones(3), torch.ones(2, 3)])
@pytest.mark.parametrize("given", [torch.tensor(1.0), torch.ones(4), torch.ones(4, 3), torch.ones(2, 2, 3)])
def test_any_two_shapes_can_be_compared(given, expected):
    said = Comparison(1e-6).difference(given, expected)
    assert said is None if given.shape == expected.shape else said.startswith(f"its shape is {tuple(given.shape)}")


def test_whole_numbers_are_written_out():
    assert Comparison(1e-9).difference(2_399_232, 2_379_264) == "it returns 2,399,232 where 2,379,264 is right"


T = torch.tensor


def test_right_values_in_another_order_are_told_so():
    said, right = Comparison(1e-6).difference, T([-1.0, 0.0, 0.3, 1.0])
    for given in (right.flip(0), right.roll(1), right[[1, 0, 2, 3]]):
        assert said(given, right) == "the values are right, but not in their order"
        assert Comparison(1e-6, discreet=True).difference(given, right) == "the shape is right, the values are not"
    assert "largest difference" in said(T([-1.0, 0.0, 0.4, 1.0]), right)
    assert "largest difference" in said(right.view(2, 2).flip(0), right.view(2, 2))


@pytest.mark.parametrize("given, expected, same", [
    (1.0, 1, True), (2, 1, False), (True, 1, False), ("1", 1, False), (float("nan"), 1.0, False),
    ([1, 2], (1, 2), True), ((1, 2, 3), (1, 2), False), (T(1.0), 1.0, True), (True, True, True),
    (1, True, False), ("a", "a", True), ("a", "b", False), (T([1, 1]), T([1.0, 1.0]), True),
    (T([1.1]), T([1.0]), False),
    # Relative, entry by entry: neither absolute, nor by the largest entry.
    (T([3e7]), T([3e7 + 20]), True), (T([3e7]), T([3e7 + 2000]), False),
    (3e7, 3e7 + 0.02, True), (3e7, 3e7 + 2000, False), (0.0, 1e-6, False), (2e-6, 1e-6, False), (2e-9, 1e-9, False),
    (T([1e6, 1.01]), T([1e6, 1.0]), False), (T([1e6, 2e-3]), T([1e6, 1e-3]), False),
    (T([1.0, 0.0]), T([1.0, 1e-4]), False), (T([1.0, 1.1e-6]), T([1.0, 1e-6]), False),
    (T([1e-9, 2e-9]), T([1e-9, 3e-9]), False), (T([1e-9, 3e-9]), T([1e-9, 3e-9]), True),
    # A small absolute floor: what is left of a sum that cancels is rounding.
    (T([1.0, 2.0, 1e-6]), T([1.0, 2.0, 0.0]), True), (T([1.0, 2.0, 1e-4]), T([1.0, 2.0, 0.0]), False),
    (1e-17, 0.0, True), (1e-7, 0.0, False),
    # Imaginary parts.
    (T([1 + 0j]), T([1.0]), False), (T([1 + 1j]), T([1.0]), False), (1 + 0j, 1.0, False),
    # Whole numbers are what they are, beyond fp64 as well.
    (T([100_001]), T([100_000]), False), (T([2**60 + 1]), T([2**60]), False), (T([2.0]), T([2]), True),
    (100_001, 100_000, False), (100_000.0, 100_000, True), (10**400, 1.0, False), (10**400, 10**400, True),
    (T([1, 0]), T([True, False]), False), (T([True, False]), T([True, False]), True),
    (T([float("nan")]), T([1.0]), False), (T([float("inf")]), T([1e30]), False), (T([]), T([]), True),
    (np.float64(1.0), 1.0, True), (np.bool_(True), True, True),
])  # fmt: skip
def test_every_part_of_a_value_counts(given, expected, same):
    for discreet in (False, True):
        assert (Comparison(1e-8, discreet=discreet).difference(given, expected) is None) == same


def test_the_dtype_counts_where_it_is_asked_for():
    given, expected = torch.ones(2, dtype=torch.float64), torch.ones(2)
    assert Comparison(1e-8).difference(given, expected) is None
    assert Comparison(1e-8, dtype=True).difference(given, expected) == "its dtype is float64, expected float32"
    assert Comparison(1e-8, dtype=True).difference(expected, expected) is None


@pytest.mark.parametrize("given, expected", [
    (123.25, 678.5), (12345, 67890), (T([123.25]), T([678.5])), ("a secret", "another"), (True, False),
    ((1.0, 123.25), (1.0, 678.5)), (T([[1.0, 123.25]]), T([[1.0, 678.5]])),
])  # fmt: skip
def test_a_discreet_comparison_gives_neither_value_away(given, expected):
    said = Comparison(1e-8, discreet=True).difference(given, expected)
    assert said and not any(part in said for part in ("123", "678", "secret", "another,", "True", "False", "555"))
    assert Comparison(1e-8).difference(given, expected) not in (None, said) or isinstance(expected, bool)


class Yes:
    r"""Equal to everything, near everything, and of any shape."""

    shape = dtype = None

    def __eq__(self, other):
        return True

    def __getattr__(self, name):
        return Yes()

    def __call__(self, *_, **__):
        return Yes()

    def __bool__(self):
        return True


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("expected", [1, 1.0, True, None, "a", T([1.0]), (1, 2), (T([1.0]), 2.0)])
def test_no_class_decides_what_equals_what(expected):
    for given in (Yes(), Subclass([1.0]), type("int", (int,), {"__eq__": lambda *_: True})(1)):
        assert Comparison(1e-8).difference(given, expected) is not None


def test_a_message_stays_short():
    for given, expected in ((10**5000, 1), ("x" * 10_000, "a"), (type("n" * 5000, (), {})(), 1)):
        assert len(Comparison(0.0).difference(given, expected)) < 150
