r"""What the check of 01b says of a penalty that trains nothing."""

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
