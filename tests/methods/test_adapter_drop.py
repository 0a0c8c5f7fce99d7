r"""AdapterDrop: blocks left out for good, drawn at random in training, and skipped at inference."""

from collections import Counter

import pytest
import tiny
import torch
from attached import alive, answers, body, labelled, refused, train
from torch import nn

from coursekit import methods
from coursekit.methods import AdapterDrop, HoulsbyAdapter, LinAdapter, ParallelAdapter, PfeifferAdapter
from coursekit.methods.adapters.adapter import bottlenecks
from coursekit.methods.adapters.passes import PassStart

each_kind = pytest.mark.parametrize("kind", (HoulsbyAdapter, PfeifferAdapter, ParallelAdapter, LinAdapter))


def now(model: nn.Module):
    r"""What the sites of `model` know of the last forward pass."""
    return next(m for m in model.modules() if isinstance(m, PassStart)).now


@each_kind
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_skipping_blocks_is_not_having_adapters_there(family, kind):
    r"""For each n: robust with n skipped = specialised for n, with the same weights; n = L: the bare base."""
    one, inner = tiny.batch(padded=True), kind(r=3)
    robust = alive(AdapterDrop(inner, robust=True), tiny.deep(family))
    whole = robust._coursekit.methods["default"]._learned(robust, "default")
    seen = []
    for n in range(5):
        special = AdapterDrop(inner, n=n).attach(tiny.deep(family))
        for key, value in special._coursekit.methods["default"]._learned(special, "default").items():
            value.data.copy_(whole[key])
        with methods.skipping(robust, n):
            seen.append(answers(robust, one))
        assert torch.equal(seen[-1], answers(special, one))
        carrying = [p for p, site in bottlenecks(special, "default").items()]
        assert len(carrying) == (4 - n) * len(kind.sites)
    assert torch.equal(answers(robust, one), seen[0])  # outside of `skipping`, and in eval mode: all of them
    assert len({tuple(logits.flatten().tolist()) for logits in seen}) == 5
    if family in tiny.DECODERS:  # a classifier has a trained head as well
        assert torch.equal(seen[4], answers(tiny.deep(family), one))


def test_the_backward_pass_of_the_specialised_stops_above_the_bare_blocks():
    model, reached = AdapterDrop(HoulsbyAdapter(r=3), n=2).attach(tiny.deep()), []

    def watch(number: int, out: torch.Tensor) -> None:
        if out.requires_grad:
            out.register_hook(lambda _: reached.append(number))

    for number, block in enumerate(model.bert.encoder.layer):
        block.register_forward_hook(lambda _, args, out, number=number: watch(number, out))
    model.train()(**labelled("bert")).loss.backward()
    assert sorted(set(reached)) == [2, 3]
    everywhere = HoulsbyAdapter(r=3).attach(tiny.deep())
    with methods.skipping(everywhere, 2):
        hidden = everywhere(**tiny.batch(), output_hidden_states=True).hidden_states
    assert [h.requires_grad for h in hidden] == [False, False, False, True, True]


@pytest.mark.parametrize("n, expected", [(None, {0, 1, 2, 3}), (2, {0, 1, 2}), (4, {0, 1, 2, 3, 4}), (0, {0})])
def test_robust_training_draws_every_number_of_blocks_evenly(n, expected):
    model = AdapterDrop(PfeifferAdapter(r=2), n=n, robust=True).attach(tiny.deep()).train()
    torch.manual_seed(0)
    drawn = Counter()
    for _ in range(120):
        with torch.no_grad():
            model(**tiny.batch(1, 2))
        drawn[now(model).skipped] += 1
    assert set(drawn) == expected
    assert all(abs(times - 120 / len(expected)) < 20 for times in drawn.values())
    model.eval()(**tiny.batch(1, 2))
    assert now(model).skipped == 0


def test_robust_training_follows_the_seed_and_moves_what_it_reaches():
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        model = AdapterDrop(PfeifferAdapter(r=2), robust=True).attach(tiny.deep()).train()
        losses = train(model, [labelled("bert", seed=i) for i in range(8)], lr=1e-2)
        runs.append((losses, [p.detach().clone() for p in model.parameters()]))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))

    for n in (0, 2):
        with methods.skipping(model, n):  # held from outside: nothing is drawn
            model.zero_grad()
            model(**labelled("bert")).loss.backward()
        without = [p.grad is None for b in bottlenecks(model, "default").values() for p in b.parameters()]
        assert without == [True] * (4 * n) + [False] * (4 * (4 - n))

    AdapterDrop(PfeifferAdapter(r=2), n=2, robust=True).attach(model, "other")
    assert now(model).sampled == {"default": 3, "other": 2}
    methods.remove(model, "other")
    assert now(model).sampled == {"default": 3}


@pytest.mark.parametrize("inner", [PfeifferAdapter(r=3), HoulsbyAdapter(r=3, train_norms=True), LinAdapter(r=3)])
@pytest.mark.parametrize("family", ["bert", "opt"])
def test_recomputed_activations_see_the_number_that_was_drawn(family, inner):
    gradients = []
    for checkpointing in (False, True):
        model = alive(AdapterDrop(inner, robust=True), tiny.deep(family)).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        drawn = []
        for seed in range(6):  # gradients of several steps are summed, as in accumulation
            model(**labelled(family, seed=seed)).loss.backward()
            drawn.append(now(model).skipped)
        assert len(set(drawn)) > 2
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_skipping_at_inference_costs_no_adapter_and_is_undone_after_an_error():
    model, calls = alive(HoulsbyAdapter(r=3), tiny.deep()), []
    for path, bottleneck in bottlenecks(model, "default").items():
        bottleneck.register_forward_hook(lambda *_, path=path: calls.append(path))
    with methods.skipping(model, 3):
        answers(model, tiny.batch())
    assert [c.split(".")[3] for c in calls] == ["3", "3"]
    with pytest.raises(ZeroDivisionError), methods.skipping(model, 4):
        raise ZeroDivisionError
    calls.clear()
    answers(model, tiny.batch())
    assert len(calls) == 8
    with methods.skipping(model, 1), methods.skipping(model, 4):
        pass
    assert now(model).held is None


def test_norms_inside_skipped_blocks_are_the_base_s():
    r"""What lies outside the blocks stays; with nothing trained there, all blocks skipped is the bare base."""
    model = alive(HoulsbyAdapter(r=3, train_norms=True), tiny.deep("llama"))
    final = next(m for p, m in model.named_modules() if p == "model.norm")
    with torch.no_grad():
        final.norms["default"].weight.copy_(final.base_layer.weight)
    with methods.skipping(model, 4):
        assert torch.equal(answers(model, tiny.batch()), answers(tiny.deep("llama"), tiny.batch()))
    plain = tiny.deep("llama")
    with torch.no_grad():
        for norm in (final.norms["default"], plain.model.norm):
            norm.weight.copy_(final.base_layer.weight + 0.3)
    with methods.skipping(model, 4):  # all blocks, and not the norm behind the last of them
        assert torch.equal(answers(model, tiny.batch()), answers(plain, tiny.batch()))
    with methods.skipping(model, 3):
        assert not torch.allclose(answers(model, tiny.batch()), answers(tiny.deep("llama"), tiny.batch()), atol=1e-3)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_norms_of_dropped_blocks_are_neither_trained_nor_counted(family):
    for n in range(5):
        method = AdapterDrop(HoulsbyAdapter(r=3, train_norms=True), n=n)
        model = method.attach(tiny.deep(family))
        assert body(model) == method.count(model.config)


@pytest.mark.parametrize("method, n, said", [
    (None, 1, "has no bottleneck adapters to skip"), (methods.LoRA(), 1, "has no bottleneck"),
    (PfeifferAdapter(), 3, "of at most 2; got 3"), (PfeifferAdapter(), -1, "got -1"),
    (methods.MAMAdapter(n=3, hidden=None, r=4), 1, "skip bottleneck adapters"),  # with the rest of a combination
    (methods.Hybrid(PfeifferAdapter(r=4), methods.BitFit()), 1, "skip bottleneck adapters"),
])  # fmt: skip
def test_blocks_that_cannot_be_skipped(method, n, said):
    model = method.attach(tiny.encoder()) if method else tiny.encoder()
    with refused(said, model), methods.skipping(model, n):
        pass
