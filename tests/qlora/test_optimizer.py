r"""What both optimizers promise: settings of their own for each group, states that go on elsewhere, one-line errors."""

import copy
import io
from functools import partial

import pytest
import torch
from bitsandbytes.optim import AdamW8bit as Theirs
from drawn import gradients, parameters, run, same
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.qlora import AdamW8bit, PagedAdamW
from coursekit.qlora.paged import GRAIN
from coursekit.quantization.dynamic import SMALLEST

OPTIONS = dict(lr=1e-3, betas=(0.8, 0.95), eps=1e-8, weight_decay=0.1)
OTHER = dict(lr=0.1, weight_decay=0.0, betas=(0.5, 0.7), eps=1e-3)
SHAPES = [(100, 90), (SMALLEST,), (SMALLEST - 1,), (50, 20), (7,)]  # 8-bit states and others, one page and many
paged = partial(PagedAdamW, budget=8 * GRAIN, page=2 * GRAIN)
fused = partial(paged, fused=True)
torch_s = partial(torch.optim.AdamW, foreach=False)
torch_fused = partial(torch.optim.AdamW, fused=True, foreach=False)
both = pytest.mark.parametrize("make", [AdamW8bit, paged], ids=["8-bit", "paged"])


def kept(state: dict) -> list[Tensor]:
    r"""Every tensor and number of a state dict, in its order."""
    return [torch.as_tensor(value).clone() for one in state["state"].values() for value in one.values()]


@both
@pytest.mark.parametrize("options, said", [
    (dict(lr=-1.0), "lr must be a number of at least 0; got -1.0"),
    (dict(betas=(1.0, 0.9)), r"betas\[0\] must be a number of at least 0 and below 1; got 1.0"),
    (dict(betas=(0.9,)), "betas must be two numbers"),
    (dict(weight_decay=-0.1), "weight_decay must .* got -0.1"),
    (dict(eps=float("nan")), "eps must .* got nan"),
])  # fmt: skip
def test_settings_that_make_no_sense(make, options, said):
    with pytest.raises(CourseError, match=said):
        make(parameters(SHAPES), **options)
    optimizer = make(parameters(SHAPES))
    with pytest.raises(CourseError, match=said):
        optimizer.add_param_group({"params": parameters([(3,)]), **options})
    assert len(optimizer.param_groups) == 1


@both
def test_groups_have_their_own_settings_and_the_closure_runs_with_gradients(make):
    shapes = [(70, 70), (9,)]
    ours, apart = parameters(shapes), parameters(shapes)
    together = make([ours[0]], **OPTIONS)
    together.add_param_group({"params": [ours[1]], **OTHER})
    alone = [make([apart[0]], **OPTIONS), make([apart[1]], **OTHER)]
    for step in range(3):
        gradients(ours, step), gradients(apart, step)

        def closure():
            assert torch.is_grad_enabled()
            return "the loss"

        assert together.step(closure) == "the loss"
        for optimizer in alone:
            optimizer.step()
    assert same(ours, apart)


@both
def test_an_empty_parameter_is_passed_over(make):
    ours = parameters([(0, 5), (5,)])
    optimizer = make(ours)
    run(optimizer, ours, 1)
    assert list(optimizer.state) == [ours[1]]


@both
def test_sparse_gradients_are_refused_before_anything_changes(make):
    embedding, linear = nn.Embedding(10, 4, sparse=True), nn.Linear(4, 1)
    linear(embedding(torch.tensor([1, 2]))).sum().backward()
    optimizer = make([*linear.parameters(), *embedding.parameters()])
    before = copy.deepcopy(linear.state_dict())
    with pytest.raises(CourseError, match="sparse"):
        optimizer.step()
    assert same(linear.state_dict().values(), before.values()) and not optimizer.state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("first", "second"), [
    (AdamW8bit, AdamW8bit), (paged, paged), (paged, torch_s), (torch_s, paged),
    (fused, fused), (fused, torch_fused), (torch_fused, fused),
], ids=range(7))  # fmt: skip
def test_either_goes_on_from_the_other_s_state_bit_for_bit(first, second, dtype):
    straight, ours = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    run(first(straight, **OPTIONS), straight, 6)
    before = first(ours, **OPTIONS)
    run(before, ours, 3)
    tensors = [x for one in before.state_dict()["state"].values() for x in one.values() if isinstance(x, Tensor)]
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in tensors)  # safetensors takes no two views of one
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    again, twin = ([nn.Parameter(p.detach().clone()) for p in ours] for _ in range(2))
    after, beside = second(again, lr=7.0), second(twin, lr=7.0)
    state = torch.load(file, weights_only=True)
    numbers = kept(state)
    for optimizer in (after, beside):  # torch's own would train on in what it is given
        optimizer.load_state_dict(copy.deepcopy(state) if isinstance(optimizer, torch.optim.AdamW) else state)
    assert after.param_groups[0]["lr"] == OPTIONS["lr"]
    run(after, again, 3, 3)
    assert same(again, straight) and same(kept(state), numbers)  # what was loaded is a copy
    assert not isinstance(after, PagedAdamW) or after.pager.nbytes <= 8 * GRAIN
    run(before, ours, 3, 3)  # and so is what was saved: it stopped nothing
    run(beside, twin, 3, 3)  # nor do two that go on from it share it
    assert same(ours, straight) and same(twin, straight)


@pytest.mark.parametrize(("make", "write", "shapes", "said"), [
    (AdamW8bit, AdamW8bit, SHAPES[:-1], r"groups of \[4\] tensors, and here they are of \[5\]"),
    (AdamW8bit, AdamW8bit, [SHAPES[0], (5001,), *SHAPES[2:]], r"state1 is torch.uint8 of \(5001,\)"),
    (AdamW8bit, torch_s, SHAPES, "state1 is missing"),
    (AdamW8bit, partial(Theirs, min_8bit_size=10**9), SHAPES, "state1 is missing"),
    (paged, torch_s, SHAPES[:-1], r"of other parameters: groups of \[4\] tensors, and here they are of \[5\]"),
    (paged, torch_s, [*SHAPES[:3], (50, 21), (7,)],
     r"exp_avg is torch.float32 of \(50, 21\), and should be fractions of \(50, 20\)"),
    (paged, partial(torch_s, amsgrad=True), SHAPES, "amsgrad or maximize"),
], ids=range(7))  # fmt: skip
def test_a_state_that_does_not_fit_changes_nothing(make, write, shapes, said):
    ours, theirs = parameters(SHAPES), parameters(shapes)
    mine, other = make(ours, **OPTIONS), write(theirs)
    run(mine, ours, 2), run(other, theirs, 1)
    before, groups = kept(mine.state_dict()), copy.deepcopy(mine.state_dict()["param_groups"])
    with pytest.raises(CourseError, match=said):
        mine.load_state_dict(other.state_dict())
    assert same(kept(mine.state_dict()), before) and mine.state_dict()["param_groups"] == groups
