r"""AdamW with 8-bit states against bitsandbytes: the same bits with its quantizer, and the reason where they differ."""

import copy

import pytest
import tiny
import torch
from bitsandbytes.optim import AdamW8bit as Theirs
from drawn import gradients, parameters, run, same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coursekit.errors import CourseError
from coursekit.live import Live
from coursekit.memory.measure import measure
from coursekit.memory.precision import optimizer_bytes
from coursekit.qlora import adam8bit
from coursekit.qlora.adam8bit import AdamW8bit
from coursekit.quantization.dynamic import BLOCK, SMALLEST, dequantize_8bit, dynamic_map

SHAPES = [(100, 90), (SMALLEST,), (SMALLEST - 1,), (33,), (5000,)]  # whole and short last blocks, and fp32 states
OPTIONS = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)


def gap(left, right):
    return max(float((a - b).detach().abs().max()) for a, b in zip(left, right, strict=True))


def bnb_quantizer(x, code, block=256):
    codes, absmax = torch.ops.bitsandbytes.quantize_blockwise(x.contiguous(), code, block)
    return codes, absmax


# against bitsandbytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_with_the_quantizer_of_bitsandbytes_every_bit_is_its(dtype, monkeypatch):
    r"""So arithmetic, order of operations, blocks and tables agree: what is left is which code a value gets."""
    monkeypatch.setattr(adam8bit, "quantize_8bit", bnb_quantizer)
    shapes = [s for s in SHAPES if torch.Size(s).numel() >= SMALLEST]
    ours, theirs = parameters(shapes, dtype), parameters(shapes, dtype)
    mine, bnb = AdamW8bit(ours, **OPTIONS), Theirs(theirs, **OPTIONS)
    for step in range(10):
        run(mine, ours, 1, step), run(bnb, theirs, 1, step)
        assert same(ours, theirs)
        for p, q in zip(ours, theirs, strict=True):
            for name in ("state1", "state2", "absmax1", "absmax2"):
                assert torch.equal(mine.state[p][name], bnb.state[q][name])


def test_step_by_step_with_either_s_own_quantizer():
    r"""One step is exact for both. From then on the codes differ, and ours stay nearer to the AdamW of fp32 states."""
    ours, theirs, exact = parameters(SHAPES), parameters(SHAPES), parameters(SHAPES)
    mine, bnb, full = (AdamW8bit(ours, **OPTIONS), Theirs(theirs, **OPTIONS), torch.optim.AdamW(exact, **OPTIONS))
    for step in range(6):
        run(mine, ours, 1, step), run(bnb, theirs, 1, step), run(full, exact, 1, step)
        for p, q in zip(ours, theirs, strict=True):
            close = step == 0 or p.numel() < SMALLEST
            off = (p - q).detach().abs()
            assert off.max() <= (1e-6 if close else OPTIONS["lr"]) and off.mean() <= 1e-6
    off = [sum(float((p - e).detach().abs().sum()) for p, e in zip(s, exact, strict=True)) for s in (ours, theirs)]
    assert off[0] < off[1]


@pytest.mark.parametrize("kind", ["sparse", "heavy tails"])
def test_no_step_is_longer_than_two_rates_since_no_variance_becomes_zero(kind):
    r"""Why code 0 is left out: Adam's step is about a learning rate long at most, and with code 0 over a thousand."""
    makes = {"ours": AdamW8bit, "bitsandbytes": Theirs, "fp32": torch.optim.AdamW}
    longest, weights = {}, {}
    for name, make in makes.items():
        random = torch.Generator().manual_seed(0)
        p = nn.Parameter(torch.randn(16384, generator=random))
        optimizer = make([p], lr=1e-3, weight_decay=0.0)
        longest[name] = 0.0
        for _ in range(10):
            p.grad = torch.randn(16384, generator=random)
            if kind == "sparse":
                p.grad *= torch.rand(16384, generator=random) < 0.05
            else:
                p.grad *= (2 * torch.randn(16384, generator=random)).exp()
            before = p.detach().clone()
            optimizer.step()
            longest[name] = max(longest[name], float((p.detach() - before).abs().max()) / 1e-3)
        weights[name] = p.detach()
    assert max(longest.values()) < 2
    off = {name: float((w - weights["fp32"]).abs().mean()) for name, w in weights.items()}
    assert off["ours"] < off["bitsandbytes"]


@pytest.mark.gpu
def test_on_a_gpu_the_states_and_weights_of_the_cpu():
    here, there = parameters(SHAPES), parameters(SHAPES, device="cuda")
    on_cpu, on_gpu = AdamW8bit(here, **OPTIONS), AdamW8bit(there, **OPTIONS)
    for step in range(6):
        gradients(here, step)
        for p, q in zip(here, there, strict=True):
            q.grad = p.grad.cuda()
        on_cpu.step(), on_gpu.step()
        assert gap(here, [q.cpu() for q in there]) <= (1e-6 if step == 0 else 1e-4)
    assert on_gpu.nbytes == on_cpu.nbytes
    assert all(state["state1"].is_cuda for state in on_gpu.state.values())


@pytest.mark.gpu
def test_bitsandbytes_on_a_gpu_step_by_step():
    ours, theirs = parameters(SHAPES, device="cuda"), parameters(SHAPES, device="cuda")
    mine, bnb = AdamW8bit(ours, **OPTIONS), Theirs(theirs, **OPTIONS)
    for step in range(6):
        run(mine, ours, 1, step), run(bnb, theirs, 1, step)
        assert gap(ours, theirs) <= (1e-6 if step == 0 else OPTIONS["lr"])


# against AdamW with fp32 states -----------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 3 * SMALLEST), min_size=1, max_size=3),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    weight_decay=st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=15, deadline=None)
def test_states_are_within_half_a_step_of_the_exact_moments(sizes, scale, weight_decay):
    r"""After one update: m = (1 - beta1) g, v = (1 - beta2) g^2, each off by half the widest gap of its map."""
    ours = parameters([(n,) for n in sizes])
    optimizer = AdamW8bit(ours, lr=1e-3, weight_decay=weight_decay)
    gradients(ours, 0)
    for p in ours:
        p.grad.mul_(scale)
    optimizer.step()
    for p in ours:
        state = optimizer.state[p]
        exact = {1: 0.1 * p.grad.double(), 2: 0.001 * p.grad.double().square()}
        for number, moment in exact.items():
            stored = state[f"state{number}"]
            if p.numel() < SMALLEST:
                torch.testing.assert_close(stored.double(), moment, rtol=1e-6, atol=0)
                continue
            code = dynamic_map(signed=number == 1)
            absmax = state[f"absmax{number}"]
            off = (dequantize_8bit(stored, absmax, code).double() - moment).abs()
            # The signed map ends at -0.993: the most negative value of a block can be off by that too.
            half = max(float(code.diff().max()) / 2, float(code[0]) + 1 if number == 1 else 0.0)
            # And float32 rounds the moment and the level, values as large as the block's largest.
            bound = absmax.double().repeat_interleave(BLOCK)[: p.numel()] * (half + 2**-23)
            assert (off <= bound).all()


# memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", [SHAPES, [(33,), (7, 7)], [(SMALLEST + 1,)], [(64, 64), (65, 65)]])
def test_bytes_are_those_of_the_formula_and_of_bitsandbytes(shapes):
    ours, theirs = parameters(shapes), parameters(shapes)
    mine, bnb = AdamW8bit(ours), Theirs(theirs)
    assert mine.nbytes == 0
    run(mine, ours, 2), run(bnb, theirs, 2)
    tensors = {
        v.untyped_storage()._cdata: v.untyped_storage().nbytes()
        for state in bnb.state.values()
        for v in state.values()
        if isinstance(v, torch.Tensor)
    }
    expected = optimizer_bytes([p.numel() for p in ours], "adamw8bit", state=4)
    assert mine.nbytes == expected == sum(tensors.values())


def test_bytes_on_a_model():
    model, batch = tiny.model("bert"), tiny.batch()
    batch["labels"] = torch.zeros(len(batch["input_ids"]), dtype=torch.long)
    measured = measure(model, batch, optimizer="adamw8bit")
    optimizer = AdamW8bit([p for p in model.parameters() if p.requires_grad])
    model(**batch).loss.backward()
    optimizer.step()
    used = [p for p in model.parameters() if p.grad is not None]
    assert optimizer.nbytes == measured.optimizer
    assert optimizer.nbytes == optimizer_bytes([p.numel() for p in used], "adamw8bit", state=4)


@pytest.mark.parametrize("shape", [(5 * BLOCK + 7, 4), (16 * BLOCK,), (70, 90)])
def test_parts_change_no_bit(monkeypatch, shape):
    whole, parts = parameters([shape]), parameters([shape])
    run(AdamW8bit(whole, **OPTIONS), whole, 4)
    monkeypatch.setattr(adam8bit, "PART", 2 * BLOCK)
    run(AdamW8bit(parts, **OPTIONS), parts, 4)
    assert same(whole, parts)


def test_what_is_in_fp32_does_not_grow_with_the_tensor(monkeypatch):
    monkeypatch.setattr(adam8bit, "PART", 4 * BLOCK)

    def most(n):
        r"""Bytes beyond weights, gradients and states that a step has at one time."""
        ours = parameters([(n,)])
        optimizer = AdamW8bit(ours, **OPTIONS)
        run(optimizer, ours, 1)
        with Live() as live:
            states = [v for v in optimizer.state[ours[0]].values() if isinstance(v, torch.Tensor)]
            known = live.add([*ours, ours[0].grad, *states, *optimizer.maps[ours[0].device]])
            optimizer.step()
        now = peak = 0
        for event in live.events:
            now += event.change * (event.storage not in known)
            peak = max(peak, now)
        return peak

    small, large = most(64 * BLOCK), most(256 * BLOCK)
    assert 2 * 4 * 4 * BLOCK <= small == large < 2 * 4 * 64 * BLOCK


# gradients that are missing, zero, or no use ----------------------------------------------------------------


def test_no_gradient_no_update_and_a_gradient_of_zero_only_decays():
    ours = parameters(SHAPES)
    optimizer = AdamW8bit(ours, **OPTIONS)
    for p in ours[1:]:
        p.grad = torch.zeros_like(p)
    for _ in range(3):
        optimizer.step()
    start = parameters(SHAPES)
    assert torch.equal(ours[0], start[0]) and not optimizer.state[ours[0]]
    for p, first in zip(ours[1:], start[1:], strict=True):
        expected = first.detach()
        for _ in range(3):
            expected = expected * (1 - 1e-3 * 0.1)
        assert torch.equal(p, expected)
        # A short block of zeros has an absmax of 1e-38, as in bitsandbytes.
        kept = optimizer._moments(optimizer.state[p], slice(0, p.numel()))
        assert all(moment.abs().max() <= 1e-38 for moment in kept)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e25])
@pytest.mark.parametrize("at", range(len(SHAPES)))
def test_a_gradient_that_is_not_finite_changes_nothing(at, value):
    ours = parameters(SHAPES)
    optimizer = AdamW8bit(ours, **OPTIONS)
    run(optimizer, ours, 2)
    before = [p.detach().clone() for p in ours]
    state = copy.deepcopy(optimizer.state_dict()["state"])
    gradients(ours, 2)
    ours[at].grad.view(-1)[7] = value
    with pytest.raises(CourseError, match="infinities or NaN, so nothing was updated"):
        optimizer.step()
    assert same(ours, before)
    for number, saved in optimizer.state_dict()["state"].items():
        assert saved["step"] == 2
        assert same(*([s[k] for k in s if k != "step"] for s in (saved, state[number])))


# groups, closures, precision --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_precisions_are_updated_in_fp32_or_better(dtype):
    ours, exact = parameters([(70, 70), (9,)], dtype), parameters([(70, 70), (9,)], dtype)
    for p in exact:
        p.data = p.data.to(torch.promote_types(dtype, torch.float32))
    mine, other = AdamW8bit(ours, **OPTIONS), AdamW8bit(exact, **OPTIONS)
    gradients(ours, 0)
    for p, q in zip(ours, exact, strict=True):
        q.grad = p.grad.to(q.dtype)
    mine.step(), other.step()
    for p, q in zip(ours, exact, strict=True):
        assert p.dtype == dtype and torch.equal(p, q.to(dtype))
        assert torch.equal(mine.state[p]["state1"], other.state[q]["state1"])
        assert mine.state[p]["state1"].dtype == (torch.uint8 if p.numel() >= SMALLEST else torch.float32)
