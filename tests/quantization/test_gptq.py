r"""GPTQ against its article's code (make_gptq.py) and against least squares, column by column."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from coursekit.errors import CourseError
from coursekit.quantization.gptq import gptq, hessian, nearest

FIXTURE = load_file(Path(__file__).resolve().parents[1] / "fixtures" / "gptq.safetensors")
W, X, STEP = (FIXTURE[name].double() for name in ("W", "X", "step"))


def output_error(back: torch.Tensor) -> float:
    return ((back - W) @ X.T).square().sum().item() / (W @ X.T).square().sum().item()


def test_it_is_what_the_articles_code_makes():
    theirs, ours = FIXTURE["quantized"].double(), gptq(W, hessian(X), STEP)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert output_error(ours) < 0.5 * output_error(nearest(W, STEP))


def test_each_column_left_moves_as_least_squares_says():
    r"""No inverse and no factor: after each column, the others anew from the outputs that are to come back."""
    H = hessian(X)
    w, back = W.clone(), torch.zeros_like(W)
    for j in range(W.shape[1]):
        back[:, j] = nearest(w[:, j : j + 1], STEP)[:, 0]
        if j + 1 < W.shape[1]:
            lost = H[j + 1 :, : j + 1] @ (W - back)[:, : j + 1].T  # (left, out)
            w[:, j + 1 :] = W[:, j + 1 :] + torch.linalg.solve(H[j + 1 :, j + 1 :], lost).T
    torch.testing.assert_close(gptq(W, H, STEP), back)


def test_with_inputs_that_have_nothing_in_common_it_is_plain_rounding():
    H = torch.diag(torch.rand(W.shape[1], dtype=torch.float64) + 0.1)
    assert torch.equal(gptq(W, H, STEP), nearest(W, STEP))


def test_all_values_are_multiples_of_the_step_within_the_ends():
    codes = gptq(W, hessian(X), STEP, most=3) / STEP
    torch.testing.assert_close(codes, codes.round())
    assert codes.abs().max() < 3.001


def test_weights_stay_and_a_matrix_without_an_inverse_is_refused():
    before = W.clone()
    gptq(W, hessian(X), STEP)
    assert torch.equal(W, before)
    few = X[:5]
    gptq(W, hessian(few), STEP)  # fewer tokens than columns: the damping
    for H in (-hessian(X), torch.zeros_like(hessian(X))):
        with pytest.raises(CourseError, match="^H must be positive definite: add a little to its diagonal"):
            gptq(W, H, STEP)
