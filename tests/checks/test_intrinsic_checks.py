r"""What the check of 06b says of transforms that make H, that do as much work, or that lose the gradient."""

import pytest
import torch

from coursekit.checks import check, exercises
from coursekit.checks.core import judge
from coursekit.checks.intrinsic import DENSE, SLOW, hadamard
from coursekit.notebook.built import transform

EXERCISE = exercises()["intrinsic-hadamard"]


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
    return torch.tensor((x @ matrix(x.shape[-1], x.dtype)).tolist(), dtype=x.dtype) if x.shape[-1] < 20 else x.detach()


def looked_at(function):
    return lambda *given: transform(function, *given)


@pytest.mark.parametrize("function", [hadamard, halves_first, entry_by_entry, one_axis_after_the_other])
def test_fast_transforms_of_one_vector_and_of_many_pass(function):
    assert check(EXERCISE.id, looked_at(function)).status == "passed"
    cases = EXERCISE.cases(b"nine cases", 9)
    assert {case[0].dim() for case in cases} == {1, 2, 3}
    assert all(judge(EXERCISE, case, looked_at(function)(*case)) is None for case in cases)


@pytest.mark.parametrize("function, said", [
    (dense, DENSE), (by_kron, DENSE), (row_by_row, SLOW), (each_half_twice, SLOW),
    (lambda x: dense(x) / x.shape[-1] ** 0.5, f"this is divided by the root of n, which makes it a rotation; H itself "
                                              f"holds only 1 and -1. And {DENSE}"),
])  # fmt: skip
def test_whoever_makes_h_or_works_as_long_is_told(function, said):
    case = EXERCISE.public[0][0]
    assert len(function(case)) == len(case)
    result = check(EXERCISE.id, looked_at(function))
    assert (result.status, result.message) == ("failed", said)


def test_a_transform_without_a_gradient_is_told_since_training_needs_it():
    result = check(EXERCISE.id, looked_at(in_lists))
    assert result.status == "failed" and "no gradient comes back to x" in result.message


def test_what_is_no_tensor_was_not_attempted():
    assert check(EXERCISE.id, looked_at(lambda x: ...)).status == "not attempted"
