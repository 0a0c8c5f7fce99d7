r"""What the check of several methods in one layer takes, and that it looks at their order."""

import copy

import pytest
import torch

from coursekit.checks import check, exercises, judge
from coursekit.checks.hybrid import fold

EXERCISE = exercises()["hybrid-fold"]


def applied(W, b, parts, x):
    y = x @ W.T + b
    for name, *tensors in parts:
        if name == "LoRA":
            A, B, scale = tensors
            y = y + scale * (x @ A.T @ B.T)
        else:
            y = y + tensors[0] if name == "BitFit" else y * tensors[0]
    return y


def probed(W, b, parts):  # by what the layer answers to unit vectors
    x = torch.eye(W.shape[1], dtype=W.dtype)
    zero = applied(W, b, parts, 0 * x[:1])[0]
    return (applied(W, b, parts, x) - zero).T, zero


def in_place(W, b, parts):
    for name, *tensors in parts:
        if name == "LoRA":
            W += tensors[2] * tensors[1] @ tensors[0]
        elif name == "BitFit":
            b += tensors[0]
        else:
            W *= tensors[0][:, None]
            b *= tensors[0]
    return [W, b]


def in_single_precision(W, b, parts):
    return fold(W.float(), b.float(), [tuple(t.float() if torch.is_tensor(t) else t for t in part) for part in parts])


@pytest.mark.parametrize("answer", [probed, in_place, in_single_precision])
def test_ways_to_fold_pass(answer):
    assert check(EXERCISE.id, answer).status == "passed"
    cases = EXERCISE.cases(b"forty cases", 40)
    assert not any(judge(EXERCISE, case, answer(*copy.deepcopy(case))) for case in cases)


def test_a_folded_layer_answers_as_the_parts_do_in_their_order():
    for W, b, parts in EXERCISE.public:
        x = torch.randn(5, W.shape[1], dtype=W.dtype)
        folded, bias = fold(W, b, parts)
        torch.testing.assert_close(x @ folded.T + bias, applied(W, b, parts, x))
        assert [name for name, *_ in parts].index("IA3") == 2 and len(parts) == 5
