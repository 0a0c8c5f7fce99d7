r"""Freeze and Reconfigure: priming, the split against the dense layer, what is kept, files."""

import pytest
import tiny
import torch
from attached import body, labelled, nonzero, refused, train
from torch import nn

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.memory import measure
from coursekit.methods import FreezeAndReconfigure
from coursekit.methods.selective.far import Priming
from coursekit.methods.selective.part_layer import parts_of
from coursekit.methods.selective.parts import transposed
from coursekit.qlora import quantize_model

each_family = pytest.mark.parametrize("family", tiny.FAMILIES)
#: Where the feed-forward layers are, written out.
FEEDFORWARD = {
    "bert": [f"bert.encoder.layer.{i}.{n}" for i in range(2) for n in ("intermediate.dense", "output.dense")],
    "roberta": [f"roberta.encoder.layer.{i}.{n}" for i in range(2) for n in ("intermediate.dense", "output.dense")],
    "gpt2": [f"transformer.h.{i}.mlp.{n}" for i in range(2) for n in ("c_fc", "c_proj")],
    "opt": [f"model.decoder.layers.{i}.{n}" for i in range(2) for n in ("fc1", "fc2")],
    "llama": [f"model.layers.{i}.mlp.{n}_proj" for i in range(2) for n in ("gate", "up", "down")],
}


def steps(family: str, n: int = 3, lr: float = 1e-2):
    def run(model: nn.Module) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # dropout
            train(model, [labelled(family, seed=i) for i in range(n)], lr=lr)

    return run


def primed(family: str, **settings) -> nn.Module:
    method, model = FreezeAndReconfigure(**settings), tiny.model(family)
    return method.attach(model, priming=method.prime(model, steps(family)))


def W_of(module: nn.Module) -> torch.Tensor:
    return module.weight.t() if transposed(module) else module.weight


# priming --------------------------------------------------------------------------------------------------


@each_family
def test_priming_measures_how_far_each_node_of_the_feedforward_moves(family):
    model, twin = tiny.model(family), tiny.model(family)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    priming = FreezeAndReconfigure().prime(model, steps(family))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert methods.attached(model) == {} and not model.training and all(p.grad is None for p in model.parameters())
    twin.train()
    steps(family)(twin)
    assert list(priming.changes) == FEEDFORWARD[family]
    for path, change in priming.changes.items():
        new, old = (W_of(m.get_submodule(path)).detach() for m in (twin, model))
        expected = torch.stack([(row - start).abs().sum() for row, start in zip(new, old, strict=True)])
        torch.testing.assert_close(change, expected, atol=1e-5, rtol=1e-4)


def test_the_nodes_that_moved_most_are_learners():
    priming = Priming({"a": torch.tensor([0.1, 5.0, 0.3, 4.0]), "b": torch.tensor([1.0, 1.0, 1.0])})
    assert priming.learners(0.5) == ((1, 3), (0, 1))
    assert priming.learners(0.01) == ((1,), (0,))
    assert priming.learners(1.0) == ((0, 1, 2, 3), (0, 1, 2))


def test_priming_trains_everything_whatever_was_frozen_or_attached():
    model, seen = tiny.model("bert").requires_grad_(False), []
    methods.LoRA(r=2).attach(model)
    nonzero(model)
    before = model(**tiny.batch()).logits

    def look(twin):
        seen.extend([twin.training, all(p.requires_grad for p in twin.parameters()), methods.attached(twin)])
        steps("bert")(twin)

    changes = FreezeAndReconfigure().prime(model, look).changes
    assert seen == [True, True, {}] and list(changes) == FEEDFORWARD["bert"]
    assert torch.equal(model(**tiny.batch()).logits, before) and list(methods.attached(model)) == ["default"]


# the split ------------------------------------------------------------------------------------------------


@each_family
@pytest.mark.parametrize("dtype, learners", [(torch.float32, 0.02), (torch.float64, 0.77), (torch.bfloat16, 0.77)])
def test_at_the_start_it_is_the_dense_layer_to_the_bit(family, dtype, learners):
    one, plain = labelled(family, padded=True), tiny.model(family).to(dtype)
    before = plain(**one)
    method = FreezeAndReconfigure(learners=learners)
    chosen = method.chosen(Priming({  # any nodes, others in each layer
        path: torch.rand(len(W_of(plain.get_submodule(path))), generator=torch.Generator().manual_seed(i))
        for i, path in enumerate(FEEDFORWARD[family])
    }))  # fmt: skip
    after = chosen.attach(plain)(**one)
    assert torch.equal(before.logits, after.logits) and torch.equal(before.loss, after.loss)


@each_family
def test_it_is_the_two_sublayers_side_by_side_permuted_back(family):
    r"""As the lecture writes it, with modules of torch alone: `concat([x @ W_t, x @ W_f])`, and back."""
    model, one = nonzero(primed(family)), tiny.batch()
    plain = tiny.model(family)
    head = {k: v for k, v in FreezeAndReconfigure()._learned(model, "default").items() if ".rows" not in k}
    for path, parts in parts_of(model, "default").items():
        module, own = plain.get_submodule(path), parts["weight"].index.tolist()
        frozen = [node for node in range(len(W_of(module))) if node not in own]
        W_t, W_f = parts["weight"].values, W_of(module)[frozen]
        b_t, b_f = (parts["bias"].values, module.bias[frozen]) if module.bias is not None else (0, 0)
        order = torch.tensor(own + frozen).argsort()
        module.forward = lambda x, W_t=W_t, W_f=W_f, b_t=b_t, b_f=b_f, order=order: torch.cat(
            [x @ W_t.t() + b_t, x @ W_f.t() + b_f], dim=-1
        )[..., order]
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name in head:
                parameter.copy_(head[name])
        torch.testing.assert_close(model(**one).logits, plain(**one).logits, atol=1e-5, rtol=1e-4)


@each_family
def test_the_other_layers_train_beside_it_in_a_hybrid(family, tmp_path):
    far, model, one = FreezeAndReconfigure(nodes=((0, 3, 5),)), tiny.model(family), tiny.batch()
    before = model(**one).logits
    both = methods.Hybrid(far, methods.ByType(kinds=("attention", "norm"))).attach(model)
    assert torch.equal(both(**one).logits, before)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    train(model, [labelled(family)], lr=1e-2)
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    method = methods.attached(model)["default"]
    method.save(model, tmp_path)
    again = methods.from_checkpoint(tmp_path).load(tiny.model(family), tmp_path)
    assert torch.equal(again(**one).logits, model(**one).logits)
    assert body(model) == method.count(model.config)
    assert {".rows", ""} == {part.key for parts in parts_of(model, "default").values()
                                 for key, part in parts.items() if key == "weight"}  # fmt: skip


# memory ---------------------------------------------------------------------------------------------------


def test_frozen_nodes_keep_no_gradient_and_no_optimizer_state():
    r"""Against the feed-forward layers trained whole: 16 bytes less for each frozen number but the weight's own 4."""
    model = tiny.model("bert", hidden_size=64, intermediate_size=256)
    whole = tiny.model("bert", hidden_size=64, intermediate_size=256).requires_grad_(False)
    for path in FEEDFORWARD["bert"]:
        whole.get_submodule(path).requires_grad_(True)
    method = FreezeAndReconfigure(learners=0.25)
    method.attach(model, priming=method.prime(model, steps("bert")))
    for head in [p for n, p in model.named_parameters() if ".copies." in n]:
        head.requires_grad_(False)
    one = labelled("bert")
    ours, theirs = measure(model, one), measure(whole, one)
    dense = sum(p.numel() for p in whole.parameters() if p.requires_grad)
    assert method.count(model.config) == dense // 4
    assert ours.gradients == 4 * dense // 4 == theirs.gradients // 4
    assert theirs.optimizer - ours.optimizer == 8 * (dense - dense // 4)
    assert ours.kept <= theirs.kept  # no copy of a matrix waits for the backward pass


# files and bad input --------------------------------------------------------------------------------------


def test_a_checkpoint_brings_its_nodes(tmp_path):
    model, one = nonzero(primed("gpt2")), tiny.batch()
    FreezeAndReconfigure().save(model, tmp_path)
    for method in (FreezeAndReconfigure(), FreezeAndReconfigure.from_checkpoint(tmp_path)):
        assert torch.equal(method.load(tiny.model("gpt2"), tmp_path)(**one).logits, model(**one).logits)
    assert FreezeAndReconfigure.from_checkpoint(tmp_path) == methods.attached(model)["default"]
    other = tiny.model("gpt2")
    with refused(r"other learners than the method here: .*from_checkpoint", other):
        FreezeAndReconfigure(nodes=((0, 1),)).load(other, tmp_path)
    nonzero(FreezeAndReconfigure(nodes=((0, 1),)).attach(other))
    with refused(r"other learners than the method here", other):
        FreezeAndReconfigure().load(other, tmp_path)


def test_priming_that_diverged_or_moves_nothing_says_so():
    far, model = FreezeAndReconfigure(), tiny.model("bert")
    with pytest.raises(CourseError, match="priming has moved no feed-forward weight: train the model that the fun"):
        far.prime(model, lambda twin: steps("bert")(model))

    def explode(twin):
        with torch.no_grad():
            twin.get_submodule("bert.encoder.layer.0.output.dense").weight[0, 0] = torch.nan

    with pytest.raises(CourseError, match="priming has diverged"):
        far.prime(model, explode)
    with pytest.raises(CourseError, match="4 bits do not move in priming"):
        far.prime(quantize_model(model), lambda twin: None)
