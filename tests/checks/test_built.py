r"""What the checks say of classes and functions that they look at: how these start, what trains, which gradient comes
back, how much work they are. What only computes a wrong value is a mistake of the exercise, and tried with those.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coursekit.checks import check, exercises
from coursekit.checks.core import Result, judge
from coursekit.checks.ia3 import Scaled
from coursekit.checks.intrinsic import DENSE, SLOW, hadamard
from coursekit.checks.memory import Recompute
from coursekit.grading.ids import LOOKS
from coursekit.notebook import built


def looked_at(id, made):
    r"""What the student's copy has below the exercise: the function that shows `made` to the check."""
    return lambda *given: getattr(built, LOOKS[id][1])(made, *given)


def found(id: str, made) -> Result:
    return check(id, looked_at(id, made))


def in_the_grader(id: str, made) -> list:
    r"""What the grader says of secret cases, None of each that is right."""
    exercise = exercises()[id]
    return [judge(exercise, case, looked_at(id, made)(*case)) for case in exercise.cases(b"secret", 6)]


# Classes --------------------------------------------------------------------------------------------------


def adapter(down, up, biases):
    r"""A right Adapter whose weights start at these deviations; biases: left at PyTorch's start."""

    class Adapter(nn.Module):
        def __init__(self, d, r):
            super().__init__()
            self.down, self.up = nn.Linear(d, r), nn.Linear(r, d)
            for layer, std in ((self.down, down), (self.up, up)):
                nn.init.normal_(layer.weight, std=std)
                if not biases:
                    nn.init.zeros_(layer.bias)

        def forward(self, h):
            return h + self.up(F.relu(self.down(h)))

    return Adapter


@pytest.mark.parametrize("down, up, biases, said", [
    (0.01, 0.01, True, "a bias takes it too far from h"), (0.0, 0.0, True, "a bias takes it too far from h"),
    (1.0, 1.0, True, "it starts too far from h: draw both weights"),
    (0.0, 0.0, False, "both weights start at 0"), (0.0, 1.0, False, "W_down starts at 0"), (0.01, 0.0, False, ""),
])  # fmt: skip
def test_what_is_wrong_with_an_adapter_s_start_is_named(down, up, biases, said):
    result = found("adapters-module", adapter(down, up, biases))
    assert result.message.startswith(said) and (result.status == "passed") == (not said)


@pytest.mark.parametrize("plain, said", [
    ("A", "A is not trained"), ("B", "B is not trained"), ("AB", "A and B are not trained"),
])  # fmt: skip
def test_a_tensor_that_is_no_parameter_is_named(plain, said):
    class LoRALinear(nn.Module):
        def __init__(self, base, r, alpha):
            super().__init__()
            self.base, self.alpha = base.requires_grad_(False), alpha
            A = torch.randn(r, base.in_features) / base.in_features**0.5
            B = torch.zeros(base.out_features, r)
            self.A, self.B = (t if name in plain else nn.Parameter(t) for name, t in (("A", A), ("B", B)))

        def forward(self, x):
            return self.base(x) + self.alpha / len(self.A) * (x @ self.A.T @ self.B.T)

    assert found("lora-linear", LoRALinear).message.startswith(said)


def width(base, side):
    return base.out_features if side == "output" else base.in_features


def scaled(width=width, start=1.0, base_trains=False, make=nn.Parameter):
    r"""A ScaledLinear that is right but for what is given."""

    class ScaledLinear(nn.Module):
        def __init__(self, base, side):
            super().__init__()
            self.base, self.side = base.requires_grad_(base_trains), side
            self.l = make(start * torch.ones(width(base, side)))

        def forward(self, x):
            return self.base(x) * self.l if self.side == "output" else self.base(x * self.l)

    return ScaledLinear


@pytest.mark.parametrize("made, said", [
    (scaled(start=0.0), "start at 1"), (scaled(base_trains=True), "still trains"),
    (scaled(make=lambda ones: nn.Parameter(ones, requires_grad=False)), "not trained"),
    (scaled(make=lambda ones: ...), ""),
    # In a square layer these fit both sides: such a class passed, and SmolLM2's down_proj stopped in the next cell.
    (scaled(lambda base, side: base.out_features), "the shape of l is wrong with side='input'"),
    (scaled(lambda base, side: base.in_features), "the shape of l is wrong with side='output'"),
    (scaled(lambda base, side: width(base, "input" if side == "output" else "output")), "the shape of l is swapped"),
    (scaled(lambda base, side: 1), "it returns 'l has the shape (1,)'"),
])  # fmt: skip
def test_what_is_wrong_with_factors_is_named(made, said):
    result = found("ia3-layer", made)
    assert result.status == "failed" and said in result.message


class Unrecorded(Recompute):
    @staticmethod
    def backward(ctx, g):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        ctx.run(x).backward(g)
        return None, x.grad


def test_a_second_run_without_a_graph_is_told_what_it_lacks():
    result = found("memory-checkpoint", Unrecorded)
    assert result.status == "failed" and "within torch.enable_grad()" in result.message


# Functions ------------------------------------------------------------------------------------------------


def ewc(theta, start, fisher, strength):
    return strength / 2 * (fisher * (theta - start) ** 2).sum()


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


def matrix(n, dtype):
    H = torch.ones(1, 1, dtype=dtype)
    while len(H) < n:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return H


def dense(x):
    return x @ matrix(x.shape[-1], x.dtype)


def by_kron(x):
    H, two = torch.ones(1, 1, dtype=x.dtype), torch.tensor([[1, 1], [1, -1]], dtype=x.dtype)
    while len(H) < x.shape[-1]:
        H = torch.kron(two, H)
    return x @ H


def row_by_row(x):
    n = x.shape[-1]
    signs = ([(-1.0) ** (i & j).bit_count() for j in range(n)] for i in range(n))
    return torch.stack([(x * torch.tensor(row, dtype=x.dtype)).sum(-1) for row in signs], -1)


def each_half_twice(x):
    if x.shape[-1] == 1:
        return x
    a, b = x.chunk(2, -1)
    return torch.cat([each_half_twice(a) + each_half_twice(b), each_half_twice(a) - each_half_twice(b)], -1)


def halves_first(x):
    if x.shape[-1] == 1:
        return x
    a, b = x.chunk(2, -1)
    return torch.cat([halves_first(a + b), halves_first(a - b)], -1)


def entry_by_entry(x):
    x, n, h = x.clone(), x.shape[-1], 1
    while h < n:
        for j in (j for i in range(0, n, 2 * h) for j in range(i, i + h)):
            a, b = x[..., j].clone(), x[..., j + h].clone()
            x[..., j], x[..., j + h] = a + b, a - b
        h *= 2
    return x


def one_axis_after_the_other(x):
    two, axes = torch.tensor([[1, 1], [1, -1]], dtype=x.dtype), x.shape[-1].bit_length() - 1
    y = x.reshape(*x.shape[:-1], *[2] * axes)
    for _ in range(axes):
        y = torch.tensordot(y, two, dims=([x.dim() - 1], [0]))
    return y.reshape(x.shape)


def in_lists(x):
    return torch.tensor(dense(x).tolist(), dtype=x.dtype) if x.shape[-1] < 20 else x.detach()


@pytest.mark.parametrize("id, made", [
    ("forgetting-ewc", ewc),
    ("forgetting-ewc", lambda theta, start, F, s: s / 2 * torch.dot(F.flatten(), (theta - start).flatten() ** 2)),
    ("forgetting-ewc", lambda theta, start, F, s: (0.5 * s * F * torch.square(start - theta)).sum()),
    ("forgetting-ewc", lambda theta, start, F, s: ((theta - start).pow(2) * F).sum().reshape(()).mul(s).div(2)),
    ("forgetting-ewc", lambda theta, start, F, s: (F.sqrt() * (theta - start)).norm() ** 2 * s / 2),
    ("quantization-straight", lambda W, rounded: W + (rounded - W).detach()),
    ("quantization-straight", lambda W, rounded: rounded.detach() + W - W.detach()),
    ("quantization-straight", lambda W, rounded: W - (W - rounded.detach()).detach()),
    ("quantization-straight", lambda W, rounded: rounded.detach().float() + (W - W.detach())),
    ("quantization-straight", Straight.apply),
    ("intrinsic-hadamard", hadamard), ("intrinsic-hadamard", halves_first), ("intrinsic-hadamard", entry_by_entry),
    ("intrinsic-hadamard", one_axis_after_the_other),
    ("ia3-layer", Scaled), ("ia3-layer", scaled()), ("ia3-layer", scaled(lambda base, side: (1, width(base, side)))),
])  # fmt: skip
def test_what_is_right_passes_here_and_in_the_grader(id, made):
    assert found(id, made).status == "passed"
    assert in_the_grader(id, made) == [None] * 6


LOST = "the value is right, but no gradient comes back to theta"


@pytest.mark.parametrize("id, made, said", [
    ("forgetting-ewc", lambda theta, *given: ewc(theta.detach(), *given), LOST),
    ("forgetting-ewc", lambda *given: ewc(*given).detach(), LOST),
    ("forgetting-ewc", lambda *given: torch.tensor(ewc(*given).item()), LOST),
    ("forgetting-ewc", torch.no_grad()(ewc), LOST),
    ("forgetting-ewc", lambda *given: ewc(*given).item(), "this is a plain number"),
    ("forgetting-ewc", lambda theta, start, F, s: s / 2 * (F * (theta - start) * (theta.detach() - start)).sum(),
     "value 2 of 2: the shape is right, the values are not"),
    ("quantization-straight", lambda W, rounded: W + rounded - W, ""),
    ("quantization-straight", torch.no_grad()(lambda W, rounded: W + (rounded - W)), ""),
    ("quantization-straight", lambda W, rounded: rounded + 0 * W, ""),
    ("quantization-straight", lambda W, rounded: (W + (rounded - W).detach())[0], ""),
    ("intrinsic-hadamard", dense, DENSE), ("intrinsic-hadamard", by_kron, DENSE),
    ("intrinsic-hadamard", row_by_row, SLOW), ("intrinsic-hadamard", each_half_twice, SLOW),
    ("intrinsic-hadamard", lambda x: dense(x) / x.shape[-1] ** 0.5,
     f"this is divided by the root of n, which makes it a rotation; H itself holds only 1 and -1. And {DENSE}"),
])  # fmt: skip
def test_what_is_wrong_is_named_here_and_wrong_in_the_grader(id, made, said):
    result = found(id, made)
    assert result.status == "failed" and result.message.startswith(said)
    assert all(in_the_grader(id, made))


def test_an_answer_that_must_not_go_on_is_stopped():
    said = found("quantization-straight", lambda W, rounded: written_over(W.data, rounded) + 0 * W).message
    assert said.startswith("it stopped with CourseError: W itself has changed")
    said = found("intrinsic-hadamard", in_lists).message
    assert "no gradient comes back to x" in said


class Empty(nn.Module):
    r"""As the stubs of the classes are handed out."""

    def __init__(self, *given, **more):
        super().__init__()

    def forward(self, x):
        return ...


@pytest.mark.parametrize("id, made", [
    ("forgetting-ewc", lambda *given: ...), ("forgetting-ewc", lambda *given: None),
    ("quantization-straight", lambda *given: ...), ("intrinsic-hadamard", lambda x: ...), ("ia3-layer", Empty),
    ("lora-linear", Empty), ("adapters-module", Empty),
])  # fmt: skip
def test_a_stub_is_not_attempted(id, made):
    assert found(id, made).status == "not attempted"
