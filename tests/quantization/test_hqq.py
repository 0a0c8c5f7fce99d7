r"""HQQ against the `hqq` package's bits (make_hqq.py), and what it gains on real weights."""

from pathlib import Path

import pytest
import torch
from drawn import random
from safetensors.torch import load_file

from coursekit.models import load_encoder
from coursekit.quantization import hqq, quantize_hqq

FIXTURE = load_file(Path(__file__).resolve().parents[1] / "fixtures" / "hqq.safetensors")
INPUTS = [name for name in FIXTURE if "/" not in name]


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    return load_encoder("minilm", dtype="float32")[0].bert.encoder.layer[2].intermediate.dense.weight.detach()


@pytest.mark.parametrize("bits, block", [(4, 64), (3, 32), (2, 16)])
@pytest.mark.parametrize("name", INPUTS)
def test_codes_steps_and_zero_points_are_the_packages_bits(name, bits, block):
    q = quantize_hqq(FIXTURE[name], bits, block)
    theirs = {key: FIXTURE[f"{name}/{bits}/{block}/{key}"] for key in ("codes", "step", "zero")}
    assert q.codes.shape == FIXTURE[name].shape and torch.equal(q.codes.view(-1, block), theirs["codes"])
    assert torch.equal(q.grid.scale, theirs["step"].half().float())
    assert torch.equal(q.grid.zero, theirs["zero"].half().float())


def test_e_keeps_the_sign_and_is_zero_below_the_threshold():
    d = torch.linspace(-2, 2, 41, dtype=torch.float64)[None]
    for beta in (0.5, 1.0, 10.0):
        e = hqq.shrink(d, beta)
        assert torch.equal(e != 0, d.abs() > beta ** (-1 / (2 - hqq.P)))
        assert ((e == 0) | (e.sign() == d.sign())).all() and (e.abs() <= d.abs()).all()


def rounded(x: torch.Tensor, block: int = 64) -> torch.Tensor:
    r"""On the same grid before its zero point is fitted: from the smallest to the largest value of each block."""
    w = x.reshape(-1, block)
    low, step = w.amin(1, keepdim=True), (w.amax(1, keepdim=True) - w.amin(1, keepdim=True)) / 15
    return (((w - low) / step).round() * step + low).view(x.shape)


def error(back: torch.Tensor, x: torch.Tensor) -> float:
    return ((back - x).square().sum() / x.square().sum()).item()


def test_it_loses_less_than_plain_rounding_of_real_weights(weights):
    plain, fitted = error(rounded(weights), weights), error(quantize_hqq(weights).dequantize(), weights)
    assert abs(fitted / plain - 0.918) < 0.01


def test_with_weights_as_small_as_these_nothing_of_the_power_is_left(weights, monkeypatch):
    r"""As the file says: e is zero throughout, and least squares gives the same."""
    usual = quantize_hqq(weights)
    monkeypatch.setattr(hqq, "shrink", torch.zeros_like)
    assert torch.equal(quantize_hqq(weights).codes, usual.codes)
    assert (quantize_hqq(FIXTURE["large"]).codes != FIXTURE["large/4/64/codes"].view(8, 128)).any()


def test_a_zero_point_lies_between_integers_and_the_dtype_comes_back():
    q = quantize_hqq(random(8, 64).bfloat16())
    assert (q.grid.zero != q.grid.zero.round()).all() and q.dequantize().dtype == torch.bfloat16
