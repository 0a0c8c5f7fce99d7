r"""SparseAdapter: exact kept counts, scores against their definitions, masks that hold, files that are smaller."""

import copy
import math

import pytest
import tiny
import torch
from attached import labelled, nonzero, refused, rows_answer_as_alone
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from coursekit import interop, methods
from coursekit.errors import CourseError
from coursekit.methods import HoulsbyAdapter, LinAdapter, ParallelAdapter, PfeifferAdapter, SparseAdapter, positions
from coursekit.methods.adapters import pruning
from coursekit.methods.adapters.pruned import PrunedLinear, learned
from coursekit.methods.adapters.pruning import NEED_DATA, projections, score
from coursekit.methods.ranking import losses

HOULSBY = HoulsbyAdapter(r=6, init="bert")


def kept_shares(model: nn.Module) -> dict[str, float]:
    r"""The share of its weights that each projection still has."""
    layers = projections(model, "default").items()
    return {path: learned(layer).numel() / (layer.in_features * layer.out_features) for path, layer in layers}


ADAPTERS = {
    "houlsby": HOULSBY,
    "pfeiffer": PfeifferAdapter(r=6, init="bert"),
    "parallel": ParallelAdapter(r=6, init="bert", scaling="learned"),
    "lin": LinAdapter(r=6, init="bert"),
}
SCORES = ("random", "magnitude", "snip", "grasp", "synflow")


def batches(family: str = "bert", n: int = 2) -> list[dict[str, torch.Tensor]]:
    return [labelled(family, seed=i) for i in range(n)]


def bodies(model: nn.Module) -> int:
    r"""Trained parameters without the task head."""
    heads = sum(p.numel() for n, p in model.named_parameters() if ".copies." in n and "Norm" not in n)
    return methods.trainable(model) - heads


def dense(model: nn.Module, name: str = "default") -> dict[str, torch.Tensor]:
    return {path: layer.weight.detach().clone() for path, layer in projections(model, name).items()}


def parameter_names(model: nn.Module) -> list[str]:
    r"""Of what trains in the projections, in their order."""
    by_id = {id(p): name for name, p in model.named_parameters()}
    return [by_id[id(learned(layer))] for layer in projections(model, "default").values()]


# numbers --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(pruned=st.floats(0, 0.99), r=st.integers(1, 9), by=st.sampled_from(("random", "magnitude", "synflow")))
def test_exactly_as_many_weights_stay_as_the_closed_form_says(pruned, r, by):
    method = SparseAdapter(HoulsbyAdapter(r=r, init="bert"), pruned=pruned, score=by)
    model = method.attach(tiny.model("bert"))
    total = 2 * tiny.LAYERS * 2 * tiny.D_MODEL * r
    assert method.weights(model.config) == total
    assert method.kept(model.config) == total - round(pruned * total)
    nonzeros = sum(int(w.count_nonzero()) for w in dense(nonzero(model)).values())
    assert nonzeros == method.kept(model.config)
    assert bodies(model) == method.count(model.config)
    assert method.count(model.config) == nonzeros + 2 * tiny.LAYERS * (r + tiny.D_MODEL)


@pytest.mark.parametrize("adapter, family, by", [
    *((adapter, "bert", by) for adapter in ADAPTERS for by in SCORES),
    *(("houlsby", family, by) for family in tiny.FAMILIES if family != "bert" for by in NEED_DATA),
])  # fmt: skip
def test_every_score_prunes_every_adapter_in_every_family(adapter, family, by):
    method = SparseAdapter(ADAPTERS[adapter], pruned=0.7, score=by)
    model = method.attach(tiny.model(family), batches=batches(family))
    assert bodies(model) == method.count(model.config)
    assert torch.isfinite(model(**labelled(family)).loss)


def test_what_else_an_adapter_trains_is_not_pruned():
    adapter = HoulsbyAdapter(r=4, init="bert", train_norms=True)
    method = SparseAdapter(adapter, pruned=0.5)
    model = method.attach(tiny.model("bert"))
    assert method.count(model.config) == adapter.count(model.config) - method.weights(model.config) // 2
    assert methods.trainable(model) - method.count(model.config) == tiny.D_MODEL * 2 + 2  # the head


# one threshold --------------------------------------------------------------------------------------------


def test_a_layer_with_larger_weights_keeps_more():
    model = HOULSBY.attach(tiny.model("bert"))
    first, *others = projections(model, "default").values()
    with torch.no_grad():
        first.weight.mul_(100)
    whole = dense(model)
    SparseAdapter(HOULSBY, pruned=0.9).prune(model)
    shares = kept_shares(model)
    every = torch.cat([w.flatten() for w in whole.values()]).abs()
    threshold = every.topk(SparseAdapter(HOULSBY, pruned=0.9).kept(model.config)).values[-1]
    assert shares == {path: (w.abs() >= threshold).double().mean().item() for path, w in whole.items()}
    assert list(shares.values())[0] > 0.8 > 2 * max(list(shares.values())[1:])
    for path, w in dense(model).items():
        assert torch.equal(w, whole[path] * (whole[path].abs() >= threshold))


# scores ---------------------------------------------------------------------------------------------------


def scored(by: str, given: list | None = None, family: str = "bert") -> tuple[nn.Module, list[torch.Tensor]]:
    model = HOULSBY.attach(tiny.model(family).double())
    return model, score(model, "default", by, given or [])


def test_magnitude_is_the_absolute_weight():
    model, scores = scored("magnitude")
    assert all(torch.equal(s, w.abs()) for s, w in zip(scores, dense(model).values(), strict=True))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_snip_is_the_slope_of_the_loss_along_a_mask(family):
    model, scores = scored("snip", batches(family), family)
    names, weights = parameter_names(model), list(dense(model).values())
    ones = [torch.ones_like(w, requires_grad=True) for w in weights]
    masked = {name: w * m for name, w, m in zip(names, weights, ones, strict=True)}
    loss = sum(functional_call(model, masked, (), one).loss for one in batches(family)) / 2
    for s, slope in zip(scores, torch.autograd.grad(loss, ones), strict=True):
        torch.testing.assert_close(s, slope.abs(), atol=1e-15, rtol=1e-9)
    assert all(s.max() > 0 for s in scores) and max(s.max() for s in scores) > 1e-8


def test_grasp_is_the_weight_times_hessian_times_gradient():
    model, scores = scored("grasp", batches())
    weights = [learned(layer) for layer in projections(model, "default").values()]

    def gradient() -> list[torch.Tensor]:
        loss = sum(model(**one).loss for one in batches()) / 2
        return list(torch.autograd.grad(loss, weights))

    g, step = gradient(), 1e-4
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            for w, d in zip(weights, g, strict=True):
                w.add_(sign * step * d)
        sides.append(gradient())
        with torch.no_grad():
            for w, d in zip(weights, g, strict=True):
                w.sub_(sign * step * d)
    for s, w, plus, minus in zip(scores, weights, *sides, strict=True):
        expected = w.detach() * (plus - minus) / (2 * step)
        torch.testing.assert_close(s, expected, atol=1e-9, rtol=1e-3)
    assert any((s < 0).any() for s in scores) and any((s > 0).any() for s in scores)


def test_synflow_is_the_share_of_the_flow_through_a_weight():
    model, scores = scored("synflow")
    weights = list(dense(model).values())
    ones = [torch.ones_like(w, requires_grad=True) for w in weights]
    D, U = ([(w.abs() * m) for w, m in zip(weights[i::2], ones[i::2], strict=True)] for i in (0, 1))
    flows = [(u @ d @ torch.ones(tiny.D_MODEL, dtype=torch.float64)).sum() for d, u in zip(D, U, strict=True)]
    for s, slope in zip(scores, torch.autograd.grad(sum(flows), ones), strict=True):
        torch.testing.assert_close(s, slope, atol=1e-12, rtol=1e-9)
    for i, flow in enumerate(flows):  # what flows in flows out (Tanaka et al. 2020, theorem 1)
        assert scores[2 * i].sum().item() == pytest.approx(flow.item())
        assert scores[2 * i + 1].sum().item() == pytest.approx(flow.item())


def test_a_batch_may_hold_what_its_rows_share():
    model, (batch,) = tiny.encoder("bert"), batches(n=1)
    shared = {"position_ids": torch.arange(batch["input_ids"].shape[1])[None]}
    with torch.no_grad():
        (found,) = losses(model, [shared | batch])
        assert found == model(**shared, **batch).loss


def test_chance_depends_on_its_seed_alone():
    _, first = scored("random")
    _, again = scored("random")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    kept = [
        kept_shares(SparseAdapter(HOULSBY, score="random", seed=seed).attach(tiny.model("bert"))) for seed in (1, 1, 2)
    ]
    assert kept[0] == kept[1] != kept[2]


@pytest.mark.parametrize("by", ["magnitude", "snip", "synflow"])  # GraSP's g is that of the weights that are left
def test_what_is_left_is_scored_as_in_the_whole_matrix(by):
    model = HOULSBY.attach(tiny.model("bert").double())
    SparseAdapter(HOULSBY, pruned=0.6, score="random").prune(model)
    now = score(model, "default", by, batches())
    whole = HOULSBY.attach(tiny.model("bert").double())
    with torch.no_grad():
        for name, p in whole.named_parameters():
            if "houlsby" in name and name.endswith("bias") or ".copies." in name:
                p.copy_(dict(model.named_parameters())[name])
        for layer, w in zip(projections(whole, "default").values(), dense(model).values(), strict=True):
            layer.weight.copy_(w)
    expected = score(whole, "default", by, batches())
    for s, e, layer in zip(now, expected, projections(model, "default").values(), strict=True):
        torch.testing.assert_close(s, e.flatten()[layer.index], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("by", SCORES)
def test_scoring_leaves_no_trace(by):
    model = HOULSBY.attach(tiny.model("bert"), "film").train()
    model.bert.encoder.layer[0].eval()
    HOULSBY.attach(model, "product")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    score(model, "film", by, batches())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters()) and model._coursekit.switch.active == "product"


# masks that hold ------------------------------------------------------------------------------------------


# when -----------------------------------------------------------------------------------------------------


def test_pruning_goes_on_where_it_stopped():
    model = nonzero(HOULSBY.attach(tiny.model("bert")))
    expected = SparseAdapter(HOULSBY, pruned=0.9).prune(copy.deepcopy(model))
    SparseAdapter(HOULSBY, pruned=0.4).prune(model)
    SparseAdapter(HOULSBY, pruned=0.4).prune(model, pruned=0.9)
    assert methods.attached(model)["default"].pruned == 0.9
    for w, e in zip(dense(model).values(), dense(expected).values(), strict=True):
        assert torch.equal(w, e)
    with pytest.raises(CourseError, match="pruned weights do not come back"):
        SparseAdapter(HOULSBY, pruned=0.5).prune(model)


# files ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(size=st.integers(1, 70_000), data=st.data())
def test_positions_survive_the_file_in_the_smaller_form(size, data):
    share = data.draw(st.sampled_from([0.0, 0.01, 0.04, 0.06, 0.2, 1.0]))
    random = torch.Generator().manual_seed(size)
    index = (torch.rand(size, generator=random) < share).nonzero().flatten()
    form, stored = positions.encode(index, size)
    assert torch.equal(positions.decode(form, stored, size), index)
    wide = 1 if size <= 2**8 else 2 if size <= 2**16 else 4
    assert stored.numel() * stored.element_size() == min(len(index) * wide, math.ceil(size / 8))


def test_positions_that_cannot_be_are_refused():
    form, stored = positions.encode(torch.tensor([0, 9]), 300)
    assert form == "index" and stored.dtype == torch.uint16
    assert positions.decode(form, torch.tensor([9, 0], dtype=torch.uint16), 300) is None  # not rising
    assert positions.decode(form, stored, 8) is None  # other positions need another type
    assert positions.decode(form, torch.tensor([3, 299], dtype=torch.uint16), 299) is None
    form, stored = positions.encode(torch.arange(10), 10)
    assert form == "mask" and len(stored) == 2
    assert positions.decode(form, stored, 9) is None and positions.decode(form, stored, 20) is None


@pytest.mark.parametrize("pruned, form", [(0.5, "mask"), (0.8, "mask"), (0.99, "index")])
def test_the_file_is_as_small_as_what_it_holds(pruned, form, tmp_path):
    adapter = HoulsbyAdapter(r=24, init="bert")
    method = SparseAdapter(adapter, pruned=pruned)
    model = nonzero(method.attach(tiny.model("bert", hidden_size=256, num_attention_heads=4)))
    small, config = method.save(model, tmp_path) / interop.TENSORS, model.config
    weights, keep = method.weights(config), method.kept(config)
    positions = weights / 8 if form == "mask" else 2 * keep
    rest = 4 * (adapter.count(config) - weights + 256 * 2 + 2)
    tables = 8_000  # names and places of the tensors
    assert 4 * keep + rest + 0.9 * positions <= small.stat().st_size <= 4 * keep + rest + positions + tables
    suffixes = {key.rsplit(".", 1)[1] for key in interop.read(tmp_path)[1] if "houlsby" in key}
    assert suffixes == {"values", form, "bias"}


def test_what_was_pruned_later_is_saved_and_loads_over_other_masks(tmp_path):
    one = labelled("bert")
    model = nonzero(HOULSBY.attach(tiny.model("bert")))
    SparseAdapter(HOULSBY).prune(model, pruned=0.3)
    SparseAdapter(HOULSBY).save(model, tmp_path)
    method = SparseAdapter.from_checkpoint(tmp_path)
    assert method == methods.attached(model)["default"]
    other = SparseAdapter(HOULSBY, pruned=method.pruned, score="random").attach(tiny.model("bert"))
    assert not torch.equal(other(**one).logits, model(**one).logits)
    method.load(other, tmp_path)
    assert torch.equal(other(**one).logits, model(**one).logits)
    assert {id(p) for p in other._coursekit.parameters["default"]} == {
        id(p) for p in other.parameters() if p.requires_grad
    }


def test_a_score_that_needs_data_needs_none_to_load(tmp_path):
    method = SparseAdapter(HOULSBY, pruned=0.8, score="snip")
    model = method.attach(tiny.model("bert"), batches=batches())
    method.save(model, tmp_path)
    again = method.load(tiny.model("bert"), tmp_path, "film")
    assert torch.equal(again(**labelled("bert")).logits, model(**labelled("bert")).logits)


def test_checkpoints_of_something_else_change_nothing(tmp_path):
    method = SparseAdapter(HOULSBY, pruned=0.8)
    method.save(method.attach(tiny.model("bert")), tmp_path / "good")
    HOULSBY.save(HOULSBY.attach(tiny.model("bert")), tmp_path / "whole")
    config, tensors = interop.read(tmp_path / "good")
    path = next(k for k in tensors if k.endswith(".values")).removesuffix(".values")
    damages = {
        "short": {f"{path}.values": tensors[f"{path}.values"][:-1]},
        "moved": {f"{path}.mask": tensors[f"{path}.mask"][:-1]},
        "none": {f"{path}.values": None},
        "twice": {f"{path}.index": torch.tensor([0], dtype=torch.uint8)},
    }
    for name, change in damages.items():
        interop.write(tmp_path / name, config, {k: v for k, v in (tensors | change).items() if v is not None})
    cases = [
        (method, "whole", "this checkpoint holds HOULSBY, not SPARSE_ADAPTER"),
        (SparseAdapter(PfeifferAdapter(r=6), pruned=0.8), "good", "holds HOULSBY, not PFEIFFER"),
        *(
            (method, name, f"is of another model: it has no weights for {path} that fit its 192 elements")
            for name in damages
        ),
    ]
    fresh, there = tiny.model("bert"), nonzero(method.attach(tiny.model("bert"), "film"))
    for loader, name, said in cases:
        for target in (fresh, there):
            with refused(said, target):
                loader.load(target, tmp_path / name, "product")


# beside others --------------------------------------------------------------------------------------------


def test_pruning_one_adapter_leaves_another_alone():
    model, one = tiny.model("bert"), labelled("bert")
    for seed, name in enumerate(("film", "product")):
        nonzero(HOULSBY.attach(model, name), seed)
    before = {name: methods.activate(model, name)(**one).logits for name in ("film", "product")}
    SparseAdapter(HOULSBY, pruned=0.9).prune(model, "film")
    assert model._coursekit.switch.active == "product"
    assert torch.equal(model(**one).logits, before["product"])
    trained = model._coursekit.parameters
    assert {id(p) for p in model.parameters() if p.requires_grad} == set(map(id, trained["product"]))
    assert set(map(id, trained["film"])) <= {id(p) for p in model.parameters()}
    assert not any(isinstance(layer, PrunedLinear) for layer in projections(model, "product").values())
    film = methods.activate(model, "film")(**one).logits
    assert not torch.equal(film, before["film"])
    rows_answer_as_alone(model, ["product", "film", None], {k: one[k] for k in ("input_ids", "attention_mask")})
    methods.activate(model, "film")
    methods.remove(model, "film")
    assert torch.equal(model(**one).logits, before["product"])


@pytest.mark.parametrize("by", ["snip", "grasp"])
def test_scores_are_those_without_dropout_whatever_mode_the_model_is_in(by):
    model, batches = nonzero(HOULSBY.attach(tiny.model("bert"))), [labelled("bert")]
    assert model.config.hidden_dropout_prob > 0
    expected = score(model, "default", by, batches)
    found = score(model.train(), "default", by, batches)
    assert model.training and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["magnitude", "snip", "grasp", "synflow"])
def test_an_up_projection_of_zeros_has_no_score(by):
    method = SparseAdapter(HoulsbyAdapter(r=4, init="zero"), score=by)
    model = tiny.model("bert")
    said = f"every {by} score of the up projections is 0, because they start at 0: start both sides away .*init='bert'"
    for target in (model, nonzero(SparseAdapter(HOULSBY).attach(tiny.model("bert"), "film"))):
        with refused(said, target):
            method.attach(target, batches=batches())

    trained = nonzero(method.adapter.attach(tiny.model("bert")))
    assert bodies(method.prune(trained, batches=batches())) == method.count(trained.config)


def test_pruning_that_cannot_be_says_why_and_changes_nothing():
    model = nonzero(HOULSBY.attach(tiny.model("bert"), "film"))
    method = SparseAdapter(HOULSBY)
    no_labels = [{"input_ids": tiny.batch()["input_ids"]}]
    snip = SparseAdapter(HOULSBY, score="snip")
    cases = [
        (lambda: snip.prune(model), "score='snip' looks at the task: give some batches"),
        (lambda: snip.prune(model, batches=[]), "score='snip' looks at the task"),
        (lambda: snip.attach(tiny.model("bert")), "score='snip' looks at the task"),
        (lambda: snip.prune(model, batches=no_labels), "a batch without labels has no loss"),
        (lambda: method.prune(model, pruned=1.0), "pruned must be .*; got 1.0"),
        (lambda: method.prune(model, pruned=0.99999), "this would prune all of the 1,536 weights"),
        (lambda: method.prune(model, "flim"), "unknown adapter 'flim'; did you mean 'film'"),
        (lambda: SparseAdapter(PfeifferAdapter()).prune(model), "'film' is a HoulsbyAdapter.*prunes a PfeifferAdapter"),
        (lambda: method.prune(tiny.model("bert")), "no method is attached"),
        (lambda: method.save(model, "nowhere"), "adapter 'film' is a HoulsbyAdapter, not a SparseAdapter"),
    ]  # fmt: skip
    for attempt, said in cases:
        with refused(said, model):
            attempt()


def test_masked_weights_are_back_whatever_happens():
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
    before, mask = weight.detach().clone(), torch.tensor([[True, False], [False, True]])
    with pytest.raises(KeyboardInterrupt), pruning.masked([weight], [mask]):
        assert weight.tolist() == [[1.0, 0.0], [0.0, -4.0]]
        raise KeyboardInterrupt
    assert torch.equal(weight, before)
