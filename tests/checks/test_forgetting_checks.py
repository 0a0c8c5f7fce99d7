r"""What the check of 01b says of a penalty that trains nothing, and of two slips in one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coursekit.checks import check, exercises
from coursekit.checks.core import judge
from coursekit.notebook import built


def value(theta, start, fisher, strength):
    return strength / 2 * (fisher * (theta - start) ** 2).sum()


def found(penalty):
    return check("forgetting-ewc", lambda *given: built.penalty(penalty, *given))


DETACHED = [
    lambda theta, *given: value(theta.detach(), *given),
    lambda *given: value(*given).detach(),
    lambda *given: torch.tensor(value(*given).item()),
    torch.no_grad()(value),
]


@pytest.mark.parametrize("penalty", DETACHED)
def test_a_penalty_whose_gradient_is_lost_does_not_pass(penalty):
    assert found(penalty).message.startswith("the value is right, but no gradient comes back to theta")
    posed = exercises()["forgetting-ewc"]
    for case in posed.cases(b"secret", 3):
        assert judge(posed, case, built.penalty(penalty, *case)), "nor in the grader"


def test_a_plain_number_has_no_gradient():
    assert found(lambda *given: value(*given).item()).message.startswith("this is a plain number")


def test_half_a_gradient_is_a_wrong_one():
    half = found(lambda theta, start, F, s: s / 2 * (F * (theta - start) * (theta.detach() - start)).sum())
    assert half.message.startswith("value 2 of 2: the shape is right, the values are not")


@pytest.mark.parametrize("penalty", [
    value,
    lambda theta, start, fisher, strength: strength / 2 * torch.dot(fisher.flatten(), (theta - start).flatten() ** 2),
    lambda theta, start, fisher, strength: (0.5 * strength * fisher * torch.square(start - theta)).sum(),
    lambda theta, start, fisher, strength: ((theta - start).pow(2) * fisher).sum().reshape(()).mul(strength).div(2),
    lambda theta, start, fisher, strength: (fisher.sqrt() * (theta - start)).norm() ** 2 * strength / 2,
])  # fmt: skip
def test_right_penalties_pass(penalty):
    assert found(penalty).status == "passed"


def test_a_stub_is_not_attempted():
    assert found(lambda *given: ...).status == found(lambda *given: None).status == "not attempted"


def on_the_line(new, old, plain, x, y, back, dropped=True):
    points = sorted(p for p in plain if not dropped or not any(q[0] < p[0] and q[1] < p[1] for q in plain))
    xs, ys = zip(*points, strict=True)
    return old - back(np.interp(x(new), x(np.array(xs)), y(np.array(ys))))


@pytest.mark.parametrize("slip, said", [
    (lambda *g: on_the_line(*g, lambda x: x, np.log, math.exp), "the share of the way is taken of the perplexities"),
    (lambda *g: on_the_line(*g, np.log, lambda y: y, float), "only `new` is in logarithms here"),
    (lambda *g: on_the_line(*g, lambda x: x, lambda y: y, float, False), "a rate that is too high"),
    (lambda *g: float(on_the_line(*g, np.log, np.log, math.exp)), ""),
])  # fmt: skip
def test_logarithms_on_one_axis_are_told_from_none(slip, said):
    result = check("forgetting-gap", slip)
    assert result.message.startswith(said) and (said or result.status == "passed")
    if said.startswith("a rate"):
        assert "And the line is straight in the perplexities" in result.message
