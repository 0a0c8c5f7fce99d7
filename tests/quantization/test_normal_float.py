r"""NormalFloat against bitsandbytes' table, scipy-free normal quantiles, and its own definition."""

from statistics import NormalDist

import pytest
import torch

from coursekit.quantization.normal_float import normal_float, tail

each_width = pytest.mark.parametrize("bits", range(2, 9))


def test_the_paper_s_table():
    r"""Appendix E prints these sixteen numbers."""
    printed = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
    printed += [-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725]
    printed += [0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941]
    printed += [0.7229568362236023, 1.0]
    assert normal_float(4).tolist() == printed


@each_width
def test_levels_stand_at_equal_steps_of_probability(bits):
    r"""Undo the division by the largest, and the normal's own distribution function gives a straight line."""
    levels = normal_float(bits).double() * NormalDist().inv_cdf(tail(bits))
    p = torch.special.ndtr(levels)
    zero = 2 ** (bits - 1) - 1
    for side in (p[: zero + 1], p[zero:]):
        steps = side.diff()
        torch.testing.assert_close(steps, steps.mean().expand_as(steps), atol=2e-6, rtol=0)


def test_the_outermost_quantile_is_the_paper_s():
    assert tail(4) == 0.9677083 == round((29 / 30 + 31 / 32) / 2, 7)
    assert tail(2) == round((5 / 6 + 7 / 8) / 2, 7)
