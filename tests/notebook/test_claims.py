r"""What stands between a notebook's text and its cells: claims and times."""

import time
from functools import partial

import pytest
import torch

from coursekit.errors import CourseError
from coursekit.notebook.claims import claim, claim_same
from coursekit.notebook.timing import ratios


def test_a_false_claim_is_told_by_its_number():
    claim(True, 1 < 2)
    with pytest.raises(AssertionError, match="claim 2"):
        claim(True, False, False)


def test_the_same_means_to_the_bit_unless_told_otherwise():
    one = torch.tensor([1.0, 2.0])
    claim_same(one, one.clone())
    claim_same(one, one + 1e-6, within=1e-5)
    for other in (one + 1e-6, one * torch.nan):
        with pytest.raises(AssertionError, match="differ by"):
            claim_same(one, other)


def test_times_are_in_units_of_the_first_call():
    found = ratios({"short": lambda: time.sleep(0.01), "long": lambda: time.sleep(0.05)}, rounds=3)
    assert found["short"] == 1 and 2 < found["long"] < 8
    with pytest.raises(CourseError, match="rounds must be"):
        ratios({"short": lambda: None}, rounds=0)


def test_each_round_of_times_begins_one_call_later():
    called: list[str] = []

    def call(name: str) -> None:
        called.append(name)
        time.sleep(1e-3)

    found = ratios({name: partial(call, name) for name in "abc"}, rounds=4)
    warming, timed = "abc", ("abc", "bca", "cab", "abc")
    assert "".join(called) == warming + "".join(timed)
    assert list(found) == ["a", "b", "c"] and found["a"] == 1
