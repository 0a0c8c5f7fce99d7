r"""What the check of 07b says of a straight-through estimator, and of one that writes into the weights."""

import pytest
import torch

from coursekit.checks import check, exercises
from coursekit.checks.core import judge
from coursekit.notebook import built


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, W, rounded):
        return rounded.clone()

    @staticmethod
    def backward(ctx, g):
        return g, None


def written_over(W, rounded):
    with torch.no_grad():
        return W.copy_(rounded)


def looked_at(estimator):
    return lambda *given: built.straight_through(estimator, *given)


@pytest.mark.parametrize("estimator", [
    lambda W, rounded: W + (rounded - W).detach(),
    lambda W, rounded: rounded.detach() + W - W.detach(),
    lambda W, rounded: W - (W - rounded.detach()).detach(),
    lambda W, rounded: rounded.detach().float() + (W - W.detach()),
    Straight.apply,
])  # fmt: skip
def test_right_estimators_pass(estimator):
    assert check("quantization-straight", looked_at(estimator)).status == "passed"


def test_the_stored_weights_may_not_be_rounded():
    said = check("quantization-straight", looked_at(lambda W, rounded: written_over(W.data, rounded) + 0 * W)).message
    assert said.startswith("it stopped with CourseError: W itself has changed")


@pytest.mark.parametrize("estimator", [
    lambda W, rounded: W + rounded - W, torch.no_grad()(lambda W, rounded: W + (rounded - W)),
    lambda W, rounded: rounded + 0 * W, lambda W, rounded: (W + (rounded - W).detach())[0],
])  # fmt: skip
def test_wrong_gradients_fail_here_and_in_the_grader(estimator):
    assert check("quantization-straight", looked_at(estimator)).status == "failed"
    posed = exercises()["quantization-straight"]
    for case in posed.cases(b"secret", 3):
        assert judge(posed, case, built.straight_through(estimator, *case)) is not None


def test_a_stub_is_not_attempted():
    assert check("quantization-straight", looked_at(lambda *given: ...)).status == "not attempted"
