r"""LoRA's other starts against peft: the same A and B, the same residual base, checkpoints, the conversion."""

import copy
import json
import warnings
from typing import Any

import peft
import pytest
import tiny
import torch
from attached import hooks, labelled, nonzero, refused, train
from peft.utils.loftq_utils import _low_rank_decomposition
from torch import Tensor, nn

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import LoRA
from coursekit.methods.lora_started import shared_out
from coursekit.methods.lora_starts import MOVED, Spread, olora, pissa, ranks
from coursekit.qlora import quantize_model

TARGETS = {
    "bert": ("query", "intermediate.dense"),
    "gpt2": ("c_attn", "mlp.c_proj"),
    "opt": ("v_proj", "fc1"),
    "llama": ("q_proj", "k_proj", "down_proj"),  # one key for two queries
}
#: peft's OLoRA factors GPT-2's Conv1D as it is stored, transposed, which no forward pass takes.
PAIRS = [(f, init) for f in TARGETS for init in MOVED if (f, init) != ("gpt2", "olora")]
both = pytest.mark.parametrize("init", MOVED)


def in_peft(family: str, init: str, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    own = {"r": 4, "lora_alpha": 6, "target_modules": list(TARGETS[family])} | options
    config = peft.LoraConfig(init_lora_weights=init, task_type="SEQ_CLS" if family == "bert" else "CAUSAL_LM", **own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(tiny.model(family, dtype=dtype), config).eval()


def here(family: str, init: str, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    method = LoRA(**({"r": 4, "alpha": 6, "targets": TARGETS[family], "init": init} | options))
    return method.attach(tiny.model(family, dtype=dtype))


def layers(model: nn.Module) -> dict[str, Any]:
    return dict(LoRA().branches(model, "default"))


# the start ------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("rslora", [False, True], ids=["", "rslora"])
@pytest.mark.parametrize("family, init", PAIRS)
def test_a_b_and_the_residual_have_peft_s_bits(family, init, rslora, dtype):
    ours, theirs = here(family, init, dtype, rslora=rslora), in_peft(family, init, dtype, use_rslora=rslora)
    found = layers(ours)
    assert len(found) == 2 * len(TARGETS[family])
    for path, layer in found.items():
        reference, branch = theirs.base_model.model.get_submodule(path), layer.branches["default"]
        for own, its in ((branch.A, reference.lora_A), (branch.B, reference.lora_B)):
            # Beside a 16-bit base peft rounds both to it, after it has taken the unrounded product out of the base.
            assert own.dtype == torch.float32, path
            assert torch.equal(own.to(dtype).float(), its["default"].weight), path
        assert torch.equal(branch.A, branch.A0) and torch.equal(branch.B, branch.B0)
        left = (layer.W.float() - branch.s * branch.B @ branch.A).to(dtype)
        assert torch.equal(left.t() if layer.transposed else left, reference.base_layer.weight), path
        assert not torch.equal(left, layer.W)


@torch.no_grad()
@both
def test_beside_a_sixteen_bit_base_the_start_is_exact_where_peft_s_is_rounded(init):
    one, plain = tiny.batch(), tiny.model("llama", dtype=torch.bfloat16)
    before = plain(**one).logits
    assert torch.equal(here("llama", init, torch.bfloat16)(**one).logits, before)
    assert not torch.equal(in_peft("llama", init, torch.bfloat16)(**one).logits, before)


@both
def test_it_is_found_in_the_base_that_is_stored_in_either_layout(init):
    W = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    for ours, same in zip(MOVED[init](W, 4, 1.5), MOVED[init](W.t().contiguous().t(), 4, 1.5), strict=True):
        assert torch.equal(ours, same)
    assert pissa(W, 2, 1.0)[0].shape == olora(W, 2, 1.0)[0].shape == (2, 32)


# training, merging ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3], ids=["no dropout", "dropout"])
@pytest.mark.parametrize("family, init", [("llama", "pissa"), ("llama", "olora"), ("opt", "pissa")])
def test_training_follows_peft(family, init, dropout):
    ours, theirs = here(family, init, dropout=dropout), in_peft(family, init, lora_dropout=dropout)
    batches, losses = [labelled(family, padded=True)] * 10, []
    for model in (ours, theirs):
        if family == "opt":
            model.config.dropout = 0.0
            for module in model.modules():
                if hasattr(module, "dropout") and isinstance(module.dropout, float):
                    module.dropout = 0.0
        torch.manual_seed(1)
        losses.append(train(model.train(), batches, lr=1e-2))
    torch.testing.assert_close(*map(torch.tensor, losses), atol=2e-5, rtol=0)
    assert losses[0][-1] < losses[0][0] - 0.01


@torch.no_grad()
@pytest.mark.parametrize("family, init", [*PAIRS, ("gpt2", "olora")])
def test_merging_at_the_start_changes_no_bit(family, init):
    model = here(family, init)
    bare = {path: layer.W.clone() for path, layer in layers(model).items()}
    methods.LoRA().merge(model)
    for path, W in bare.items():
        merged = model.get_submodule(path).weight
        assert torch.equal(merged.t() if family == "gpt2" else merged, W)


@torch.no_grad()
@pytest.mark.parametrize("family", [family for family in TARGETS if family != "bert"])  # whose head trains whole
@both
def test_what_was_learned_fits_in_a_plain_lora_of_rank_2r_and_not_in_one_less(family, init):
    model, one = nonzero(here(family, init)), labelled(family)
    update, beside = methods.update_of(model), model(**one).logits
    methods.detach(model)
    assert max(methods.to_lora(model, update, r=2 * 4).values()) < 1e-5
    torch.testing.assert_close(model(**one).logits, beside, atol=1e-4, rtol=1e-4)
    assert min(methods.to_lora(model, update, r=2 * 4 - 1, name="less").values()) > 1e-3


# LoftQ ----------------------------------------------------------------------------------------------------


def exact_and_codes(family: str = "llama", **settings: Any) -> tuple[nn.Module, nn.Module]:
    return tiny.model(family), quantize_model(tiny.model(family), **settings)


@torch.no_grad()
@pytest.mark.parametrize("code, block", [("nf4", 64), ("fp4", 128)])
@pytest.mark.parametrize("family", TARGETS)
def test_loftq_is_peft_s_answer_to_what_quantizing_lost(family, code, block):
    exact, model = exact_and_codes(family, code=code, block=block)
    bare = {path: value.clone() for path, value in model.state_dict().items()}
    plain = model(**tiny.batch()).logits
    LoRA(r=4, alpha=4, targets=TARGETS[family], init="loftq").attach(model, exact=exact)
    for path, layer in layers(model).items():
        weight, branch = exact.get_submodule(path).weight, layer.branches["default"]
        W = weight.t() if family == "gpt2" else weight
        reference = _low_rank_decomposition(W - layer.W, reduced_rank=4)
        assert torch.equal(branch.A, reference["R"]) and torch.equal(branch.B, reference["L"]), path
        left, values = W - layer.W - branch.delta, torch.linalg.svdvals(W - layer.W)
        torch.testing.assert_close(left.square().sum(), values[4:].square().sum(), atol=1e-6, rtol=1e-4)
        assert left.norm() < 0.9 * (W - layer.W).norm()
    with methods.disabled(model):
        assert torch.equal(model(**tiny.batch()).logits, plain)
    after = methods.detach(model).state_dict()
    assert after.keys() == bare.keys() and all(torch.equal(after[key], value) for key, value in bare.items())


@torch.no_grad()
def test_whatever_the_scale_loftq_starts_nearer_to_the_exact_model():
    exact, model = exact_and_codes()
    one = tiny.batch()
    target, before = exact(**one).logits, model(**one).logits
    for alpha in (4, 6):
        settings = dict(r=4, alpha=alpha, targets="all-linear", rslora=alpha == 6, rank_pattern={"1.*": 8})
        LoRA(**settings, init="loftq").attach(model, exact=exact)
        assert (model(**one).logits - target).norm() < 0.9 * (before - target).norm()
        methods.detach(model)


@torch.no_grad()
def test_a_checkpoint_of_loftq_is_a_plain_lora_on_the_same_codes(tmp_path):
    exact, model = exact_and_codes()
    method, one = LoRA(r=4, init="loftq"), tiny.batch()
    nonzero(method.attach(model, exact=exact))
    method.save(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["init_lora_weights"] is True
    for reader in (method, methods.from_checkpoint(tmp_path)):
        again = reader.load(exact_and_codes()[1], tmp_path)
        assert torch.equal(again(**one).logits, model(**one).logits)
    assert methods.from_checkpoint(tmp_path) == LoRA(r=4, targets=("q_proj", "v_proj"))


def nan(model: nn.Module) -> nn.Module:
    model.model.layers[1].self_attn.q_proj.weight.data[3, 4] = torch.nan
    return model


@pytest.mark.parametrize("options, exact, said", [
    ({}, None, r"init='loftq' looks at the dense model, as it was .*: give attach\(model, exact=...\)"),
    ({}, lambda: tiny.model("opt"), "exact has no dense layer model.layers.0.self_attn.q_proj: give the model as it"),
    ({}, lambda: exact_and_codes()[1], "exact has no dense layer model.layers.0.self_attn.q_proj: give the model as"),
    ({}, lambda: tiny.model("llama", hidden_size=64), r"q_proj is 64 x 64 in exact and 32 x 32 here: give the same"),
    ({}, lambda: nan(tiny.model("llama")), "weight of model.layers.1.self_attn.q_proj in exact, which holds NaN"),
    ({"init": None}, lambda: tiny.model("llama"), "exact is for init='loftq' alone: leave it out"),
    ({"targets": ("lm_head",)}, lambda: tiny.model("llama"), "mends a weight in codes, and lm_head is dense: call"),
    ({"targets": ("embed_tokens",)}, lambda: tiny.model("llama"), "is for linear layers, and .*embed_tokens is an emb"),
])  # fmt: skip
def test_loftq_that_has_nothing_to_look_at_leaves_the_model_alone(options, exact, said):
    for model in (exact_and_codes()[1], nonzero(LoRA(r=2).attach(exact_and_codes()[1], "other"))):
        with refused(said, model):
            LoRA(**({"r": 4, "init": "loftq"} | options)).attach(model, exact=exact() if exact else None)


# EVA ------------------------------------------------------------------------------------------------------


def batches(family: str, many: int = 1) -> list[dict[str, Tensor]]:
    return [labelled(family, batch_size=12, seed=i, padded=True) for i in range(many)]


@torch.no_grad()
def uneven(model: nn.Module) -> nn.Module:
    r"""Give one layer of a Llama inputs that vary in few directions: random weights make all layers alike."""
    if model.config.model_type == "llama":
        model.get_submodule("model.layers.1.input_layernorm").weight.mul_(0.8 ** torch.arange(32.0))
    return model


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_eva_starts_where_peft_s_does_with_the_same_ranks(family):
    given = batches(family)
    if family != "bert":
        given[0]["labels"] = given[0]["labels"].clone()
        given[0]["labels"][:, :3] = -100  # a prompt: it is not learned from
    own = {key: value for key, value in given[0].items() if key != "labels" or family != "bert"}
    theirs = in_peft(family, "eva")
    uneven(theirs.base_model.model)
    peft.initialize_lora_eva_weights(theirs, [own], show_progress_bar=False)
    model, one = uneven(tiny.model(family)), labelled(family)
    before = model(**one).logits
    LoRA(r=4, alpha=6, targets=TARGETS[family], init="eva").attach(model, batches=given)
    assert torch.equal(model(**one).logits, before)
    sizes = []
    for path, layer in layers(model).items():
        reference, branch = theirs.base_model.model.get_submodule(path), layer.branches["default"]
        sizes.append(len(branch.A))
        assert sizes[-1] == reference.r["default"] and branch.s == reference.scaling["default"], path
        torch.testing.assert_close(branch.A, reference.lora_A["default"].weight, atol=2e-3, rtol=0, msg=path)
    assert sum(sizes) == 4 * len(sizes) and max(sizes) <= 8
    assert family != "llama" or len(set(sizes)) > 1
    method = methods.attached(model)["default"]
    head = methods.trainable(model.classifier) if family == "bert" else 0
    assert methods.trainable(model) - head == method.count(model.config)


def test_several_batches_are_taken_in_one_after_the_other():
    random = torch.Generator().manual_seed(0)
    X = torch.randn(90, 20, generator=random) @ torch.diag(0.7 ** torch.arange(20.0)) + 3
    spread = Spread(6, 20)
    for part in X.split((30, 11, 49)):
        spread.add(part)
    _, S, V = torch.linalg.svd(X - X.mean(dim=0), full_matrices=False)
    torch.testing.assert_close(spread.mean, X.mean(dim=0))
    assert spread.total == pytest.approx(float(S.square().sum()), rel=1e-4)
    torch.testing.assert_close(spread.shares[:3], (S.square() / S.square().sum())[:3], atol=1e-3, rtol=0)
    torch.testing.assert_close((spread.directions[:3] @ V[:3].T).abs(), torch.eye(3), atol=0.02, rtol=0)


def test_ranks_go_to_the_largest_shares_and_the_file_has_them(tmp_path):
    assert ranks([torch.tensor([0.5, 0.4, 0.1]), torch.tensor([0.9, 0.05])], 3) == [2, 1]
    model = tiny.model("llama")
    with torch.no_grad():  # one direction alone varies before the second block's projections
        model.model.layers[1].input_layernorm.weight[1:] = 0
    bare, one = copy.deepcopy(model), tiny.batch()
    method = LoRA(r=2, alpha=6, targets=("q_proj", "v_proj"), init="eva", rank_pattern={"0.*v_proj": 1})
    method.attach(model, batches=batches("llama", 2))
    found = methods.attached(model)["default"]
    sizes = {path: len(layer.branches["default"].A) for path, layer in layers(model).items()}
    assert sum(sizes.values()) == 2 + 1 + 2 + 2 and found.count(model.config) == methods.trainable(model)
    assert all(
        layer.branches["default"].s == (6 if "0.self_attn.v" in path else 3) for path, layer in layers(model).items()
    )
    nonzero(model)
    method.save(model, tmp_path)
    for reader in (methods.from_checkpoint(tmp_path), method):
        again = reader.load(copy.deepcopy(bare), tmp_path)
        assert torch.equal(again(**one).logits, model(**one).logits)


def test_a_layer_that_gets_no_rank_is_no_target():
    random = torch.Generator().manual_seed(0)
    steep, flat = Spread(4, 40), Spread(4, 40)
    steep.add(torch.randn(200, 4, generator=random) @ torch.randn(4, 40, generator=random))
    flat.add(torch.randn(200, 40, generator=random))
    paths = [f"model.layers.0.self_attn.{name}" for name in ("q_proj", "v_proj")]
    method = shared_out(LoRA(r=2, alpha=6, layers=0), dict(zip(paths, (flat, steep), strict=True)))
    assert method.targets == (paths[1],) and method.rank_pattern == {paths[1]: 4}
    assert method.at(paths[1]).scaling == 3 and method.count(tiny.config("llama")) == 4 * (32 + 16)


def test_eva_reads_the_base_beside_an_adapter_that_is_trained_and_leaves_no_hook():
    given, starts = batches("llama", 2), []
    for others in (False, True):
        model = tiny.model("llama").train()
        if others:
            nonzero(LoRA(r=2, targets="all-linear").attach(model, "other"))
        LoRA(r=4, init="eva").attach(model, batches=iter(given))
        starts.append([p.detach().clone() for p in model._coursekit.parameters["default"]])
        assert hooks(model) == 0 and model.training
    assert all(torch.equal(one, other) for one, other in zip(*starts, strict=True))


@pytest.mark.parametrize("given, said", [
    (None, r"init='eva' looks at batches of the task: give attach\(model, batches=...\)"),
    (tiny.batch(), "batches: give a list of batches, such as .batch., and this is one batch"),
    ([], r"EVA looks for 8 directions among the inputs of .*q_proj, and these batches have 0: give more"),
    ([tiny.batch(1, 8)], "EVA looks for 8 directions among the inputs of .*, and these batches have 8: give more"),
])  # fmt: skip
def test_eva_without_enough_to_look_at_leaves_the_model_alone(given, said):
    model = tiny.model("llama")
    with refused(said, model):
        LoRA(r=4, init="eva").attach(model, batches=given)
    with pytest.raises(CourseError, match="batches is for init='eva' alone: leave it out"):
        LoRA(r=4).attach(model, batches=[tiny.batch()])
