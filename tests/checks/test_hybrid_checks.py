r"""The Kronecker layer's check sees whether W was built, and takes every way through the factors that does without."""

from __future__ import annotations

import pytest
import torch

from coursekit.checks import check, exercises, judge
from coursekit.checks.hybrid import BUILT, kronecker_product
from coursekit.notebook.built import without_matrix

EXERCISE = exercises()["hybrid-kronecker"]


def terms(A, s, t):
    return [torch.kron(A_i, torch.outer(s_i, t_i)) for A_i, s_i, t_i in zip(A, s, t, strict=True)]


def dense(x, A, s, t):
    return x @ sum(terms(A, s, t)).T


def term_by_term(x, A, s, t):
    return sum(x @ term.T for term in terms(A, s, t))


def in_one_view(x, A, s, t):  # never two-dimensional, and still every entry of W
    W = torch.einsum("ipq,ia,ib->paqb", A, s, t)
    return torch.einsum("paqb,...qb->...pa", W, x.unflatten(-1, (len(A), -1))).flatten(-2)


def filled_in(x, A, s, t):
    W = torch.zeros(s.numel(), t.numel(), dtype=x.dtype)
    p, q = s.shape[1], t.shape[1]
    for i, k, m in torch.cartesian_prod(*[torch.arange(len(A))] * 3).tolist():
        W[k * p : (k + 1) * p, m * q : (m + 1) * q] += A[i, k, m] * torch.outer(s[i], t[i])
    return x @ W.T


def blocks(x, A, s, t):  # one block of W at a time is no W
    pieces, out = x.chunk(len(A), -1), []
    for p in range(len(A)):
        out.append(
            sum(
                pieces[q] @ (A[i, p, q] * torch.outer(s[i], t[i])).T
                for i in range(len(A))
                for q in range(len(A))
            )
        )
    return torch.cat(out, -1)


def everything_broadcast(x, A, s, t):  # (batch, seq, i, p, q, a), summed at the end
    seen = (x.unflatten(-1, (len(A), -1))[:, :, None] * t[:, None]).sum(-1)  # (batch, seq, i, q)
    made = A * seen[:, :, :, None]  # (batch, seq, i, p, q)
    return (made[..., None] * s[:, None, None]).sum((2, 4)).flatten(-2)


def copied_for_each_term(x, A, s, t):
    copies = x.expand(len(A), *x.shape).clone()
    alone = torch.eye(len(A), dtype=A.dtype)[:, :, None, None] * A  # row i: A_i, and 0 for the others
    return sum(kronecker_product(copies[i], alone[i], s, t) for i in range(len(A)))


def looked_at(layer):
    r"""What the stub makes of a class whose objects compute `layer`."""
    return lambda *given: without_matrix(lambda A, s, t: lambda x: layer(x, A, s, t), *given)


def right(layer, n=20):
    cases = EXERCISE.cases(b"twenty cases", n)
    return sum(judge(EXERCISE, case, looked_at(layer)(*case)) is None for case in cases)


@pytest.mark.parametrize("layer", [kronecker_product, blocks, everything_broadcast, copied_for_each_term])
def test_ways_through_the_factors_pass(layer):
    assert check(EXERCISE.id, looked_at(layer)).status == "passed"
    assert right(layer) == 20


@pytest.mark.parametrize("layer", [dense, term_by_term, in_one_view, filled_in])
def test_whoever_builds_w_is_told(layer):
    case = EXERCISE.public[0]
    torch.testing.assert_close(layer(*case), kronecker_product(*case))
    result = check(EXERCISE.id, looked_at(layer))
    assert (result.status, result.message) == ("failed", BUILT)
    assert right(layer) == 0


def test_w_may_not_be_built_beforehand_either():
    def make(A, s, t):
        W = sum(terms(A, s, t))
        return lambda x: x @ W.T

    assert check(EXERCISE.id, lambda *given: without_matrix(make, *given)).message == BUILT


def test_a_mistake_is_named_with_w_and_without():
    small = check(EXERCISE.id, looked_at(lambda x, A, s, t: kronecker_product(x, A.mT, s, t))).message
    large = check(EXERCISE.id, looked_at(lambda x, A, s, t: dense(x, A.mT.contiguous(), s, t))).message
    assert small.startswith("A_i is transposed") and large == f"{small}. And {BUILT}"


@pytest.mark.parametrize("kept", ["A", "s", "t"])
def test_a_factor_that_is_copied_would_not_be_trained(kept):
    def make(**factors):
        factors[kept] = torch.nn.Parameter(factors[kept])
        return lambda x: kronecker_product(x, **factors)

    result = check(EXERCISE.id, lambda *given: without_matrix(make, *given))
    assert result.status == "failed" and f"no gradient reaches {kept}: keep the factors themselves" in result.message


def test_what_is_no_tensor_was_not_attempted():
    for nothing in (..., None):
        result = check(EXERCISE.id, looked_at(lambda *_, nothing=nothing: nothing))
        assert result.status == "not attempted"
