r"""Paging: the bits of torch.optim.AdamW, the budget by live storages, and traffic by a pager written another way."""

from types import SimpleNamespace

import pytest
import torch
from drawn import gradients, parameters, run, same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coursekit.errors import CourseError
from coursekit.live import Live
from coursekit.qlora.paged import GRAIN, PagedAdamW, Pager, paged_adamw

OPTIONS = dict(lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
KERNELS = pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])


def torch_s(parameters, fused=False, **options):
    return torch.optim.AdamW(parameters, **(OPTIONS | options), fused=fused, foreach=False)


# the pager --------------------------------------------------------------------------------------------------


def by_hand(sizes, budget, uses):
    r"""(hits, faults, evictions, bytes in, bytes out) of LRU, from the times of the last uses alone."""
    last, there, dirty = {}, set(), set()
    hits = faults = evictions = came = went = 0
    for time, (page, write) in enumerate(uses):
        if page in there:
            hits += 1
        else:
            while sum(sizes[i] for i in there) + sizes[page] > budget:
                oldest = min(there, key=last.get)
                there.remove(oldest)
                evictions += 1
                went += sizes[oldest] * (oldest in dirty)
                dirty.discard(oldest)
            there.add(page)
            faults += 1
            came += sizes[page]
        if write:
            dirty.add(page)
        last[page] = time
    return hits, faults, evictions, came, went


@st.composite
def paging(draw):
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=8))
    budget = draw(st.integers(max(sizes), sum(sizes) + 5))
    uses = draw(st.lists(st.tuples(st.integers(0, len(sizes) - 1), st.booleans()), min_size=1, max_size=60))
    return sizes, budget, uses


@given(paging())
def test_a_pager_loses_no_write_and_pages_as_lru_does(case):
    sizes, budget, uses = case
    pager = Pager(budget)
    homes = [torch.zeros(size, dtype=torch.uint8) for size in sizes]
    numbers, wanted = [pager.add(home) for home in homes], [0] * len(sizes)
    for page, write in uses:
        here = pager.fetch(numbers[page], write)
        assert here.data_ptr() != homes[page].data_ptr()
        assert here.tolist() == [wanted[page]] * sizes[page]
        if write:
            here.add_(1)
            wanted[page] += 1
        assert pager.nbytes <= budget
    t = pager.traffic
    assert (t.hits, t.faults, t.evictions, t.bytes_in, t.bytes_out) == by_hand(sizes, budget, uses)
    assert t.peak <= budget
    pager.flush()
    assert [home.unique().tolist() for home in homes] == [[n] for n in wanted]
    went = t.bytes_out
    pager.flush()
    assert pager.traffic.bytes_out == went, "what is clean is not written again"


# the same bits ----------------------------------------------------------------------------------------------


@KERNELS
@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=5), pages=st.integers(1, 4), room=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_any_sizes_pages_and_budget_give_the_bits_of_torch(fused, sizes, pages, room):
    ours, theirs = ([*parameters([(n,) for n in sizes])] for _ in range(2))
    page = pages * GRAIN
    paged = PagedAdamW(ours, **OPTIONS, budget=page * room, page=page, fused=fused)
    plain = torch_s(theirs, fused)
    for step in range(3):
        for side, optimizer in ((ours, paged), (theirs, plain)):
            run(optimizer, side, 1, step)
        assert same(ours, theirs)
    state = paged.state_dict()["state"]
    for i, p in enumerate(theirs):
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[i][name], plain.state[p][name])
    assert all(t.peak <= page * room for t in paged.history)


@KERNELS
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_every_precision(dtype, fused):
    shapes = [(70, 50), (9,), (3, 40, 20)]
    ours, theirs = (parameters(shapes, dtype) for _ in range(2))
    paged = PagedAdamW(ours, **OPTIONS, budget=4 * GRAIN, page=2 * GRAIN, fused=fused)
    run(paged, ours, 4), run(torch_s(theirs, fused), theirs, 4)
    assert same(ours, theirs) and all(p.isfinite().all() for p in ours)
    assert sum(t.evictions for t in paged.history) > 0


def test_weights_and_gradients_that_are_not_contiguous():
    def transposed():
        p = nn.Parameter(parameters([(30, 40)])[0].detach().t())
        p.grad = torch.randn(1, 30, generator=torch.Generator().manual_seed(3)).expand(40, 30)
        return p

    ours, theirs = transposed(), transposed()
    assert not ours.is_contiguous() and not ours.grad.is_contiguous()
    PagedAdamW([ours], **OPTIONS, budget=GRAIN, page=GRAIN).step()
    torch_s([theirs]).step()
    assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()


def test_groups_closures_and_parameters_without_a_gradient():
    shapes = [(600,), (50, 20), (7,)]
    ours, theirs = parameters(shapes), parameters(shapes)
    paged = PagedAdamW([ours[0]], **OPTIONS, budget=GRAIN, page=GRAIN)
    plain = torch_s([theirs[0]])
    for side, optimizer in ((ours, paged), (theirs, plain)):
        optimizer.add_param_group({"params": side[1:], "lr": 0.5, "weight_decay": 0.0, "betas": (0.5, 0.5)})
        gradients(side, 0)
        side[1].grad = None
        side[2].grad = torch.zeros_like(side[2])

        def closure(optimizer=optimizer):
            assert torch.is_grad_enabled()
            return 5.0

        assert optimizer.step(closure) == 5.0
    assert same(ours, theirs)
    assert torch.equal(ours[1], parameters(shapes)[1]) and not paged.state[ours[1]]
    run(paged, ours, 2, 1), run(plain, theirs, 2, 1)
    assert same(ours, theirs)
    assert paged.state[ours[1]]["step"] == 2 and paged.state[ours[0]]["step"] == 3


# the budget and the traffic ---------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [1, 2, 5])
def test_storages_that_live_during_a_step_stay_within_the_budget(room):
    page = 4 * GRAIN
    ours = parameters([(5000,), (64,), (30, 70)])
    gradients(ours, 0)
    with Live() as live:
        paged = PagedAdamW(ours, **OPTIONS, budget=room * page, page=page, fused=True)
        for _ in range(3):
            paged.step()
    known = live.add([*paged.pager.homes, *ours, *(p.grad for p in ours)])
    now, most = 0, 0
    for event in live.events:
        now += event.change * (event.storage not in known)
        most = max(most, now)
    counters = 4 * (len(ours) + 1)  # of steps; one is copied while its parameter is updated
    assert room * page - 64 * 8 <= most <= room * page + counters
    assert max(t.peak for t in paged.history) <= room * page


def test_what_fits_moves_once():
    ours = parameters([(3000,), (40, 50), (10,)])
    total = 2 * 4 * sum(p.numel() for p in ours)
    paged = PagedAdamW(ours, **OPTIONS, budget=total, page=GRAIN)
    run(paged, ours, 4)
    first, *later = paged.history
    pages = len(paged.pager.homes)
    assert (first.faults, first.hits, first.bytes_in, first.bytes_out) == (pages, 0, total, 0)
    for t in later:
        assert (t.faults, t.hits, t.bytes_in, t.bytes_out, t.peak) == (0, pages, 0, 0, total)


@pytest.mark.parametrize("pages, room", [(10, 9), (10, 5), (10, 1), (7, 3)])
def test_with_too_little_room_every_use_is_a_fault(pages, room):
    ours = parameters([(pages * GRAIN // 8,)])
    paged = PagedAdamW(ours, budget=room * GRAIN, page=GRAIN)
    run(paged, ours, 5)
    for t in paged.history[1:]:
        assert (t.faults, t.hits) == (pages, 0)
        assert t.bytes_in == t.bytes_out == pages * GRAIN


# bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, said", [
    (dict(budget=1000, page=GRAIN), "budget=1000 bytes is below the 1024 of one page"),
    (dict(budget=0), r"budget \(bytes\) must be a positive integer; got 0"),
    (dict(budget=1e9), r"budget \(bytes\) must .* got 1000000000.0"),
    (dict(page=1000), "page must be a multiple of 1024 bytes, .* got 1000"),
    (dict(page=2.0 * GRAIN), "page must be an integer; got 2048.0"),
    (dict(page=GRAIN + 1), "page must be a multiple of 1024"),
])  # fmt: skip
def test_settings_that_make_no_sense(options, said):
    with pytest.raises(CourseError, match=said):
        PagedAdamW(parameters([(500,)]), **options)


def test_a_budget_below_a_page_is_enough_where_no_page_is_that_large():
    ours = parameters([(10,)])
    run(PagedAdamW(ours, budget=80), ours, 2)
    with pytest.raises(CourseError, match="budget=79 bytes is below the 80"):
        PagedAdamW(ours, budget=79)


def test_a_group_that_is_refused_is_not_kept():
    ours, more = parameters([(10,)]), parameters([(300,)])
    paged = PagedAdamW(ours, budget=GRAIN, page=2 * GRAIN)
    with pytest.raises(CourseError, match="below the 2048 of one page"):
        paged.add_param_group({"params": more})
    with pytest.raises(CourseError, match="cpu and meta: one budget is for one device"):
        paged.add_param_group({"params": [nn.Parameter(torch.empty(3, device="meta"))]})
    assert len(paged.param_groups) == 1


def test_the_one_for_the_device(monkeypatch):
    assert isinstance(paged_adamw(parameters([(3,)])), PagedAdamW)
    import bitsandbytes

    monkeypatch.setattr(bitsandbytes.optim, "PagedAdamW", lambda params, **settings: (params, settings))
    elsewhere = [SimpleNamespace(device=torch.device("cuda", 0))]
    assert paged_adamw(elsewhere, lr=0.5) == (elsewhere, dict(lr=0.5, weight_decay=1e-2))


@pytest.mark.gpu
@KERNELS
def test_on_a_gpu_the_same_bits_and_no_byte_above_the_budget(fused):
    shapes, page, room = [(3000, 700), (64,), (50, 70)], 1024 * GRAIN, 3
    ours, theirs = (parameters(shapes, device="cuda") for _ in range(2))
    paged = PagedAdamW(ours, **OPTIONS, budget=room * page, page=page, fused=fused)
    plain = torch_s(theirs, fused)
    for step in range(3):
        gradients(ours, step), gradients(theirs, step)
        plain.step()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() - paged.pager.nbytes
        paged.step()
        above = torch.cuda.max_memory_allocated() - before
        temporaries = 0 if fused else page
        assert above <= room * page + temporaries + 512 * (len(paged.pager.homes) + 2 * len(ours) + 2)
        assert same(ours, theirs)
    assert all(home.is_pinned() for home in paged.pager.homes)
    assert sum(t.evictions for t in paged.history) > 0
