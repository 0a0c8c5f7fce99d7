r"""Small sums: none is asked twice, and the text is what a decoder goes on with."""

import pytest

from coursekit.errors import CourseError
from coursekit.tasks.sums import Sum, sums


def test_no_pair_is_asked_twice_in_either_order():
    train, test = sums(100, 60)
    asked = [frozenset((one.a, one.b)) for one in train + test]
    assert (len(train), len(test)) == (100, 60) and len(set(asked)) == 160
    assert all(1 <= n <= 20 for one in train + test for n in (one.a, one.b, *one.shown))
    assert any(one.a > one.b for one in train) and any(one.a < one.b for one in train)
    assert sums(100, 60) == (train, test) and sums(100, 60, seed=1)[0] != train


def test_the_text_shows_one_and_asks_one():
    one = Sum(8, 9, (3, 4))
    assert one.prompt == "3 + 4 = 7\n8 + 9 = " and one.total == 17


def test_there_are_only_so_many():
    with pytest.raises(CourseError, match="there are 210 sums of two numbers up to 20; 211 are asked for"):
        sums(200, 11)
