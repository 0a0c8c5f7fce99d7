r"""Exercises of notebook 03: runs show the fault that they have, and folded scales decode to the scaled matrix."""

from dataclasses import replace

import pytest
import torch

from coursekit.checks.ia3 import fold_quantized
from coursekit.checks.ia3_diagnose import (
    FAULTS,
    OTHER,
    SHOWN_UNLISTED,
    UNLISTED,
    below,
    diagnose,
    public_runs,
    run,
    top,
)
from coursekit.models import load_encoder
from coursekit.quantization import quantize_affine


@pytest.mark.parametrize("rate", [0.02, 0.03, 0.04])
def test_each_run_shows_its_fault_and_no_other(rate):
    for seed in (1, 77):
        names = ("healthy", *FAULTS)
        assert diagnose(tuple(run(name, seed, rate) for name in names)) == names
        unlisted = (SHOWN_UNLISTED, *UNLISTED)
        assert diagnose(tuple(run(name, seed, rate) for name in unlisted)) == (OTHER,) * len(unlisted)


def test_the_sentences_about_healthy_runs_hold_of_drawn_ones():
    r"""Grading draws a seed of up to 10**6. A run whose factors are set back breaks the sentence on moves each time."""
    for seed in range(0, 10**6, 25_000):
        rate = (0.02, 0.03, 0.04)[seed // 25_000 % 3]
        moves, again = (run(kind, seed, rate)["l"].diff(dim=0).abs() for kind in ("healthy", "again"))
        assert moves[0].max().item() == pytest.approx(rate, rel=0.01)
        assert moves.any(0).all() and moves.max() < 1.1 * moves[0].max() < 1.2 * moves[0].max() < again.max()


def test_the_runs_are_of_minilm_s_own_topmost_block():
    weights, hidden, mask, _ = below()
    model, _ = load_encoder("minilm", num_labels=2, device="cpu")
    block, ones = (model.bert.encoder.layer[-1], {n: torch.ones(w) for n, w in (("k", 384), ("v", 384), ("ff", 1536))})
    with torch.no_grad():
        blocked = (1.0 - mask[:, None, None].float()) * torch.finfo(torch.float32).min
        out = block(hidden, attention_mask=blocked)
        out = out[0] if isinstance(out, tuple) else out
        expected = model.classifier(model.bert.pooler(out))
        torch.testing.assert_close(top(weights, ones, hidden, mask)[0], expected, atol=1e-5, rtol=1e-4)


def test_whoever_changes_a_run_changes_nobody_else_s():
    (runs,) = public_runs(0)
    runs[0]["loss"].zero_()
    assert public_runs(0)[0][0]["loss"].any()


def test_a_run_holds_what_the_notebook_says():
    shapes = {name: tuple(tensor.shape) for name, tensor in run("healthy", 1, 0.03).items()}
    assert shapes == {
        "loss": (12,), "l": (13, 32), "W": (2, 14, 14), "y": (10, 32), "h": (10, 32)
    }  # fmt: skip


@pytest.mark.parametrize("side, block, inside", [
    ("output", 64, 1.0), ("output", 8, 1.0), ("input", 64, 0.0), ("input", 8, 0.0), ("input", 1, 1.0),
])  # fmt: skip
def test_what_is_called_exact_decodes_to_the_scaled_matrix(side, block, inside):
    random = torch.Generator().manual_seed(0)
    W = torch.randn(6, 64, generator=random)
    l = 1 + 0.3 * torch.randn(6 if side == "output" else 64, generator=random)
    q = quantize_affine(W, bits=8, symmetric=True, block=block)
    scale, exact = fold_quantized(q.codes, q.grid.scale.reshape(6, -1), l, side)
    assert exact.float().mean() == inside
    folded = replace(q, grid=replace(q.grid, scale=scale.reshape(q.grid.scale.shape))).dequantize()
    wanted = q.dequantize() * (l[:, None] if side == "output" else l)
    if inside:
        torch.testing.assert_close(folded, wanted)
    else:
        torch.testing.assert_close(folded, q.dequantize())  # as it was


def test_one_factor_in_a_block_is_exact_and_two_are_not():
    codes, scale = torch.tensor([[4, 1, 3, -2], [1, 0, 2, 2]]), torch.tensor([[0.5, 0.1], [0.25, 0.2]])
    new, exact = fold_quantized(codes, scale, torch.tensor([2.0, 2.0, 1.5, 0.5]), "input")
    assert exact.tolist() == [[True, False], [True, False]]
    torch.testing.assert_close(new, torch.tensor([[1.0, 0.1], [0.5, 0.2]]))
