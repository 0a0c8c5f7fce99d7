r"""AdamW with 8-bit states against bitsandbytes: the same bits with its quantizer, and the reason where they differ."""

from __future__ import annotations

import copy
import io
from functools import partial

import pytest
import tiny
import tiny_text
import torch
from bitsandbytes import functional as bnb_functional
from bitsandbytes.optim import AdamW8bit as Theirs
from drawn import gradients, parameters
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coursekit.errors import CourseError
from coursekit.memory.live import Live
from coursekit.memory.measure import measure
from coursekit.memory.precision import TABLES, optimizer_bytes
from coursekit.qlora import adam8bit
from coursekit.qlora.adam8bit import AdamW8bit
from coursekit.quantization.dynamic import BLOCK, SMALLEST, dequantize_8bit, dynamic_map, quantize_8bit
from coursekit.training import fit

SHAPES = [
    (100, 90),
    (SMALLEST,),
    (SMALLEST - 1,),
    (33,),
    (5000,),
]  # whole and short last blocks, and fp32 states
OPTIONS = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)


def run(optimizer, parameters, steps, first=0):
    for step in range(first, first + steps):
        gradients(parameters, step)
        optimizer.step()


def gap(left, right):
    return max(float((a - b).detach().abs().max()) for a, b in zip(left, right, strict=True))


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


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
    mine, bnb, full = (
        AdamW8bit(ours, **OPTIONS),
        Theirs(theirs, **OPTIONS),
        torch.optim.AdamW(exact, **OPTIONS),
    )
    for step in range(6):
        run(mine, ours, 1, step), run(bnb, theirs, 1, step), run(full, exact, 1, step)
        for p, q in zip(ours, theirs, strict=True):
            close = step == 0 or p.numel() < SMALLEST
            off = (p - q).detach().abs()
            assert off.max() <= (1e-6 if close else OPTIONS["lr"]) and off.mean() <= 1e-6
    off = [
        sum(float((p - e).detach().abs().sum()) for p, e in zip(s, exact, strict=True))
        for s in (ours, theirs)
    ]
    assert off[0] < off[1]


@pytest.mark.parametrize("kind", ["sparse", "heavy tails"])
def test_a_variance_that_becomes_zero_makes_steps_of_thousands_of_rates(kind):
    r"""Why code 0 is left out: Adam's step is about a learning rate long at most, whatever the gradients."""
    makes = {
        "ours": AdamW8bit,
        "as in the paper": partial(AdamW8bit, zero_variance=True),
        "bitsandbytes": Theirs,
        "fp32": torch.optim.AdamW,
    }
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
    assert longest["as in the paper"] > 1000
    assert max(longest[name] for name in ("ours", "bitsandbytes", "fp32")) < 2
    off = {name: float((w - weights["fp32"]).abs().mean()) for name, w in weights.items()}
    assert off["ours"] < off["bitsandbytes"] < off["as in the paper"]


@pytest.mark.parametrize("signed", [True, False], ids=["state 1", "state 2"])
def test_where_the_codes_differ_ours_is_the_nearer(signed):
    r"""bitsandbytes' CPU looks a value's cell up in a table of 65536 over [-1, 1]."""
    x = torch.randn(400 * BLOCK, generator=torch.Generator().manual_seed(0))
    x = x if signed else x.square()
    code = dynamic_map(signed)
    (mine, absmax), (theirs, _) = quantize_8bit(x, code), bnb_quantizer(x, code)
    scaled = (x.view(-1, BLOCK).double() / absmax[:, None]).flatten()
    ours_off, theirs_off = ((code[codes.int()].double() - scaled).abs() for codes in (mine, theirs))
    differ = mine != theirs
    assert 0 < differ.double().mean() < (0.003 if signed else 0.06)
    assert (ours_off <= theirs_off + 1e-7).all()  # 1e-7: both divide in fp32
    assert (theirs_off[differ] - ours_off[differ]).max() <= 1 / 32768
    if not signed:
        assert theirs.min() == 7 and mine.min() == 0, "its table has no cell for codes 0 to 6"


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


def test_small_tensors_are_torch_s_adamw():
    shapes = [(33,), (SMALLEST - 1,), (4, 5)]
    ours, theirs = parameters(shapes), parameters(shapes)
    run(AdamW8bit(ours, **OPTIONS), ours, 8), run(torch.optim.AdamW(theirs, **OPTIONS), theirs, 8)
    assert gap(ours, theirs) <= 1e-6


def test_the_first_step_is_exact_whatever_the_states_become():
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    run(AdamW8bit(ours, **OPTIONS), ours, 1), run(torch.optim.AdamW(theirs, **OPTIONS), theirs, 1)
    assert gap(ours, theirs) <= 3e-7


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
            bound = absmax.double().repeat_interleave(BLOCK)[: p.numel()] * half * (1 + 1e-5)
            assert (off <= bound).all()


@pytest.mark.parametrize("dtype, near", [(torch.float32, 0.05), (torch.bfloat16, 0.1)], ids=["fp32", "bf16"])
def test_finds_the_minimum_that_fp32_states_find(dtype, near):
    r"""Least squares, where Adam has to find scales that differ by a thousand."""
    scale = torch.logspace(-1.5, 1.5, SMALLEST)
    target = torch.randn(SMALLEST, generator=torch.Generator().manual_seed(2))

    def loss_of(make):
        p = nn.Parameter(torch.zeros(SMALLEST, dtype=dtype))
        optimizer = make([p], lr=0.05, weight_decay=0.0)
        for step in range(150):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 150)
            loss = (scale * (p.float() - target).square()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    start = float((scale * target.square()).mean())
    eight, full = loss_of(AdamW8bit), loss_of(torch.optim.AdamW)
    assert eight <= full + near * start and eight < near * start


@pytest.mark.slow
def test_variances_that_become_zero_in_a_real_model():
    from coursekit.models import load_decoder
    from coursekit.tasks.instructions import load_instructions, prepare_instructions

    def longest_step(**options):
        model, tokenizer = load_decoder(device="cpu", dtype=torch.float32)
        data = prepare_instructions(load_instructions(), tokenizer, max_length=128)
        trained = list(model.parameters())
        optimizer = AdamW8bit(trained, lr=1e-5, weight_decay=0.0, **options)
        for step in range(2):
            rows = data.data["train"].select(range(4 * step, 4 * step + 4)).to_list()
            model(**data.collate(rows)).loss.backward()
            before = [p.detach().clone() for p in trained]
            optimizer.step()
            optimizer.zero_grad()
        steps = [(p.detach() - b).abs() / 1e-5 for p, b in zip(trained, before, strict=True)]
        return max(float(s.max()) for s in steps)

    assert longest_step() < 2
    assert longest_step(zero_variance=True) > 100


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


def test_two_bytes_and_a_thirty_second_a_parameter():
    p = [nn.Parameter(torch.zeros(1024 * BLOCK))]
    optimizer = AdamW8bit(p)
    run(optimizer, p, 1)
    assert (optimizer.nbytes - TABLES) / p[0].numel() == 2 + 2 * 4 / BLOCK


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


def test_an_empty_parameter_is_passed_over():
    ours = parameters([(0, 5), (5,)])
    optimizer = AdamW8bit(ours)
    run(optimizer, ours, 1)
    assert list(optimizer.state) == [ours[1]]


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


def test_sparse_gradients_are_refused_before_anything_changes():
    embedding, linear = nn.Embedding(2000, 4, sparse=True), nn.Linear(4, 1)
    linear(embedding(torch.tensor([1, 2]))).sum().backward()
    optimizer = AdamW8bit([*linear.parameters(), *embedding.parameters()])
    before = copy.deepcopy(linear.state_dict())
    with pytest.raises(CourseError, match="sparse"):
        optimizer.step()
    assert same(linear.state_dict().values(), before.values()) and not optimizer.state


@pytest.mark.parametrize("options, said", [
    (dict(lr=-1.0), "lr must be a number of at least 0; got -1.0"),
    (dict(betas=(1.0, 0.9)), r"betas\[0\] must be a number of at least 0 and below 1; got 1.0"),
    (dict(betas=(0.9,)), "betas must be two numbers"),
    (dict(weight_decay=-0.1), "weight_decay must .* got -0.1"),
    (dict(eps=float("nan")), "eps must .* got nan"),
])  # fmt: skip
def test_settings_that_make_no_sense(options, said):
    with pytest.raises(CourseError, match=said):
        AdamW8bit(parameters(SHAPES), **options)
    optimizer = AdamW8bit(parameters(SHAPES))
    with pytest.raises(CourseError, match=said):
        optimizer.add_param_group({"params": parameters([(3,)]), **options})
    assert len(optimizer.param_groups) == 1


# groups, closures, precision --------------------------------------------------------------------------------


def test_groups_have_their_own_settings_and_the_closure_runs_with_gradients():
    shapes = [(70, 70), (9,)]
    ours, apart = parameters(shapes), parameters(shapes)
    other = dict(lr=0.1, weight_decay=0.0, betas=(0.5, 0.7), eps=1e-3)
    together = AdamW8bit([ours[0]], **OPTIONS)
    together.add_param_group({"params": [ours[1]], **other})
    alone = [AdamW8bit([apart[0]], **OPTIONS), AdamW8bit([apart[1]], **other)]
    for step in range(3):
        gradients(ours, step), gradients(apart, step)

        def closure():
            assert torch.is_grad_enabled()
            return "the loss"

        assert together.step(closure) == "the loss"
        for optimizer in alone:
            optimizer.step()
    assert same(ours, apart)


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


def test_weights_and_gradients_that_are_not_contiguous():
    plain, turned = parameters([(80, 90)])[0], parameters([(80, 90)])[0]
    turned = nn.Parameter(turned.detach().t().contiguous().t())
    assert not turned.is_contiguous()
    gradient = torch.randn(90, 80, generator=torch.Generator().manual_seed(1)).t()
    for p in (plain, turned):
        optimizer = AdamW8bit([p], **OPTIONS)
        for _ in range(3):
            p.grad = gradient
            optimizer.step()
    assert torch.equal(plain, turned)


# saved and resumed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_resumed_bit_for_bit(dtype):
    straight = parameters(SHAPES, dtype=dtype)
    run(AdamW8bit(straight, **OPTIONS), straight, 6)

    halted = parameters(SHAPES, dtype=dtype)
    before = AdamW8bit(halted, **OPTIONS)
    run(before, halted, 3)
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    again = [nn.Parameter(p.detach().clone()) for p in halted]
    after = AdamW8bit(again, lr=7.0)
    after.load_state_dict(torch.load(file, weights_only=True))
    assert after.param_groups[0]["lr"] == OPTIONS["lr"]
    run(after, again, 3, 3)
    assert same(again, straight)
    run(before, halted, 3, 3)  # and the loaded states are copies
    assert same(halted, straight)


def test_a_state_that_does_not_fit_changes_nothing():
    ours = parameters(SHAPES)
    mine = AdamW8bit(ours, **OPTIONS)
    run(mine, ours, 1)
    before = copy.deepcopy(mine.state_dict())
    other_shape = parameters([*SHAPES[:-1], (5001,)])
    fewer = parameters(SHAPES[:-1])
    full = parameters(SHAPES)
    cases = [
        (AdamW8bit(fewer), fewer, r"groups of \[4\] tensors, and here they are of \[5\]"),
        (AdamW8bit(other_shape), other_shape, r"state1 is torch.uint8 of \(5001,\)"),
        (torch.optim.AdamW(full), full, "state1 is missing"),
        (Theirs(full, min_8bit_size=10**9), full, "state1 is missing"),
    ]
    for optimizer, its, said in cases:
        run(optimizer, its, 1)
        with pytest.raises(CourseError, match=said):
            mine.load_state_dict(optimizer.state_dict())
    after = mine.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, saved in before["state"].items():
        assert all(
            torch.equal(torch.as_tensor(saved[k]), torch.as_tensor(after["state"][number][k])) for k in saved
        )


# in the training loop ---------------------------------------------------------------------------------------


def test_fit_trains_as_with_bitsandbytes_and_resumes(tmp_path):
    data, common = tiny_text.prepared("decoder"), dict(batch_size=4, lr=1e-3, progress=False)

    def model():
        return tiny.decoder("llama", hidden_size=64)  # so that the embedding is large enough for 8 bits

    steps = 6
    ours, theirs = model(), model()
    assert any(p.numel() >= SMALLEST for p in ours.parameters()), "8-bit states are in play"
    history = fit(ours, data, steps=steps, optimizer="adamw8bit", **common)
    make = partial(Theirs, lr=1e-3, weight_decay=0.0)
    other = fit(theirs, data, steps=steps, optimizer=make, **common)
    assert history.loss == pytest.approx(other.loss, abs=2e-3)

    calls = iter(range(100))

    def stop(*_):
        if next(calls) == 5:
            raise ZeroDivisionError

    halted = model()
    halted.register_forward_pre_hook(stop)
    options = dict(optimizer="adamw8bit", checkpoint=tmp_path, checkpoint_every=2, **common)
    with pytest.raises(ZeroDivisionError):
        fit(halted, data, steps=steps, **options)
    resumed = model()
    assert fit(resumed, data, steps=steps, **options).loss == history.loss
    assert same(resumed.parameters(), ours.parameters())


def test_the_tables_are_bitsandbytes():
    for signed in (True, False):
        assert torch.equal(dynamic_map(signed), bnb_functional.create_dynamic_map(signed=signed))


def test_two_optimizers_that_go_on_from_one_state_do_not_share_it():
    weights = [nn.Parameter(torch.randn(5000, generator=torch.Generator().manual_seed(i))) for i in range(3)]
    first, second, third = (AdamW8bit([w]) for w in weights)

    def step(optimizer, weight, seed):
        weight.grad = torch.randn(5000, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    step(first, weights[0], 10)
    kept = first.state_dict()
    before = copy.deepcopy(kept)
    second.load_state_dict(kept)
    third.load_state_dict(kept)
    step(second, weights[1], 11)
    for name, value in before["state"][0].items():
        assert torch.equal(torch.as_tensor(kept["state"][0][name]), torch.as_tensor(value)), name
        assert torch.equal(torch.as_tensor(third.state[weights[2]][name]), torch.as_tensor(value)), name
