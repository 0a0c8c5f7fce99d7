r"""The checks at the doors: what passes comes back, what does not is one line."""

import math
from functools import partial

import numpy as np
import pytest

from coursekit.errors import CourseError, flag, number, one_of, share, whole


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (partial(whole, least=1), 8),
        (whole, -3),
        (partial(whole, least=1, most=4), 4),
        (partial(whole, least=1), np.int64(3)),
        (partial(number, above=0), 1e-300),
        (partial(number, above=0), np.float32(0.5)),
        (partial(number, above=0), np.int64(5)),
        (share, np.float64(0.5)),
        (partial(number, least=0, below=1), 0),
        (share, 1),
        (flag, False),
        (partial(one_of, known=("relu", "gelu")), "gelu"),
    ],
)
def test_what_fits_comes_back(check, value):
    found = check("it", value)
    assert found == value and type(found) in (int, float, bool, str), "Python's own"


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (partial(whole, least=1, such_as=8), 0, "r must be a positive integer, such as 8; got 0."),
        (partial(whole, least=1), True, "r must be a positive integer; got True."),
        (partial(whole, least=1), 2.0, "r must be a positive integer; got 2.0."),
        (partial(whole, least=0), -1, "r must be a non-negative integer; got -1."),
        (partial(whole, least=2, most=8), 9, "r must be an integer of at least 2 and of at most 8; got 9."),
        (whole, None, "r must be an integer; got None."),
        (whole, "8", "r must be an integer; got '8'."),
        (partial(number, above=0, such_as=16), math.inf, "r must be a number above 0, such as 16; got inf."),
        (partial(number, above=0), 0.0, "r must be a number above 0; got 0.0."),
        (partial(number, least=0, below=1), 1, "r must be a number of at least 0 and below 1; got 1."),
        (partial(number, least=0), math.nan, "r must be a number of at least 0; got nan."),
        (share, 1.01, "r must be a number of at least 0 and of at most 1; got 1.01."),
        (flag, 1, "r must be True or False; got 1."),
        (partial(one_of, known=("relu", "gelu")), "gelo", "unknown r 'gelo'; did you mean 'gelu'? known: gelu, relu"),
        (partial(one_of, known=("relu",)), [], "unknown r []; known: relu"),
    ],
)
def test_what_does_not_fit_is_one_line_that_says_what_would(check, value, message):
    with pytest.raises(CourseError) as caught:
        check("r", value)
    assert str(caught.value) == message


def test_a_long_value_is_shortened():
    with pytest.raises(CourseError) as caught:
        whole("r", list(range(1000)))
    assert len(str(caught.value)) < 100 and "\n" not in str(caught.value)
