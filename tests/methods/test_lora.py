r"""LoRA against peft with the same weights, against closed forms, and against itself: start, freeze, merge, detach."""

import functools

import peft
import pytest
import tiny
import torch
from attached import EVERYTHING, nonzero, rows_answer_as_alone
from attached import labelled as batch
from torch import nn

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import LoRA
from coursekit.methods.lora import FastLoRABranch, LoRABranch, LoRALayer
from coursekit.methods.low_rank import LowRankLinear, low_rank_update
from coursekit.methods.mechanism.modules import AdapterState

FAMILIES = tiny.FAMILIES


# peft -----------------------------------------------------------------------------------------------------


def test_patterns_with_alternatives_mean_what_they_mean_in_peft(tmp_path):
    r"""Every alternative is looked for at the end of a path, and layer 1 is not layer 11."""
    settings = dict(
        r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj"],
        rank_pattern={"q_proj|v_proj": 2, "1.self_attn.k_proj": 3},
        alpha_pattern={"k_proj|v_proj": 32, "layers.(2|10)..*q_proj": 5},
    )  # fmt: skip
    llama, one = tiny.Awkward("llama"), tiny.batch()
    wrapped = nonzero(peft.get_peft_model(tiny.model(llama), peft.LoraConfig(**settings)))
    wrapped.save_pretrained(tmp_path)
    ours = methods.from_checkpoint(tmp_path).load(tiny.model(llama), tmp_path)
    for path, layer in methods.LoRA().branches(ours, "default"):
        theirs, branch = wrapped.base_model.model.get_submodule(path), layer.branches["default"]
        assert (len(branch.A), branch.s) == (theirs.r["default"], theirs.scaling["default"]), path
    assert torch.equal(ours(**one).logits, wrapped(**one).logits)
    assert methods.trainable(ours) == methods.attached(ours)["default"].count(ours.config)


@pytest.mark.parametrize("variant", [
    {"dropout": 0.3}, {"dora": True}, {"dora": True, "dropout": 0.3, "r": 3, "alpha": 7},
], ids=["dropout", "dora", "dora with dropout"])  # fmt: skip
@pytest.mark.parametrize("family", FAMILIES)
def test_every_gradient_is_peft_s_with_dropout_and_padding(family, variant, tmp_path):
    r"""On linear layers and an embedding that holds padding ids. DoRA's norm is a constant for the gradient."""
    targets = EVERYTHING[family] if family != "gpt2" else (*EVERYTHING[family][:3], "wte")
    method = LoRA(**({"r": 4, "alpha": 8} | variant), targets=targets)
    plain = tiny.still(family) | ({"pad_token_id": 0} if family == "gpt2" else {})
    model = nonzero(method.attach(tiny.model(family, **plain)))
    method.save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny.model(family, **plain), tmp_path, is_trainable=True)
    padding = model.config.pad_token_id
    one = batch(family, padded=True)
    one["input_ids"] = one["input_ids"].masked_fill(one["attention_mask"] == 0, padding)
    one["input_ids"][0, -1] = padding  # one that is read, so that its row has a gradient to lose
    one["attention_mask"][0, -1] = 1
    for side in (model, theirs):
        torch.manual_seed(1)
        side.train()(**one).loss.backward()
    reference = {
        n.removeprefix("base_model.model.").replace(".default", ""): p.grad
        for n, p in theirs.named_parameters()
        if "lora" in n
    }
    own = {key: value.grad for key, value in method._tensors(model, "default").items()}
    reference = {key.replace("magnitude_vector.weight", "magnitude_vector"): g for key, g in reference.items()}
    assert own.keys() == reference.keys()
    for key, gradient in own.items():
        torch.testing.assert_close(gradient, reference[key], atol=2e-6, rtol=1e-3, msg=key)
        assert gradient.any(), key
    tables = [layer for layer in model.modules() if isinstance(getattr(layer, "unwrapped", None), nn.Embedding)]
    padded = [layer for layer in tables if layer.unwrapped.padding_idx is not None and isinstance(layer, LoRALayer)]
    assert padded or family == "gpt2"
    for layer in padded:
        assert not layer.branches["default"].A.grad[:, layer.unwrapped.padding_idx].any()


def test_a_starts_as_peft_s_does():
    r"""Uniform within 1 / sqrt(d_in): kaiming's bound with a = sqrt(5)."""
    model = LoRA(r=16, targets="all-linear").attach(tiny.model("llama"))
    theirs = peft.get_peft_model(tiny.model("llama"), peft.LoraConfig(r=16, target_modules="all-linear"))
    starts = [
        {
            n.split("layers")[1].split(".lora_A")[0].split(".branches")[0]: p
            for n, p in side.named_parameters()
            if end in n
        }
        for side, end in ((model, "default.A"), (theirs, "lora_A"))
    ]
    assert starts[0].keys() == starts[1].keys() and len(starts[0]) == 14
    for path, A in starts[0].items():
        bound = A.shape[1] ** -0.5
        for start in (A, starts[1][path]):
            assert 0.95 * bound < start.abs().max() <= bound
            assert abs(start.std() * 3**0.5 / bound - 1) < 0.1


@pytest.mark.parametrize("s", [2.0, 7 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fast_twin_has_the_bits_of_the_plain_branch(s, dtype):
    layer = nn.Linear(40, 50).requires_grad_(False).to(dtype)
    torch.manual_seed(0)
    kinds = [kind(LoRALayer(layer, AdapterState()), LoRA(r=4, alpha=4 * s)) for kind in (LoRABranch, FastLoRABranch)]
    kinds[1].load_state_dict(nonzero(kinds[0]).state_dict())
    x, answers = torch.randn(3, 7, 40).to(dtype), []
    for branch_ in kinds:
        given = x.clone().requires_grad_()
        h = branch_.answer(layer, given)
        h.float().square().sum().backward()
        with torch.no_grad():  # computed without the autograd function
            assert torch.equal(branch_.compute(layer(x), x), h)
        answers.append((h, given.grad, branch_.A.grad, branch_.B.grad))
    assert answers[0][0].dtype == dtype and torch.equal(answers[0][0], answers[1][0])
    for plain, fast in zip(*answers, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-5 if dtype == torch.float32 else 2e-2)


def test_different_adapters_for_different_rows_equal_peft(tmp_path):
    model = tiny.model("llama")
    for seed, name in enumerate(("film", "product")):
        method = LoRA(r=2 + seed, alpha=8)
        nonzero(method.attach(model, name), seed)
        method.save(model, tmp_path / name, name)
    theirs = peft.PeftModel.from_pretrained(tiny.model("llama"), tmp_path / "film", adapter_name="film")
    theirs.load_adapter(tmp_path / "product", adapter_name="product")
    one = tiny.batch(4)
    names = ["product", "film", None, "product"]
    with torch.no_grad(), methods.mixed_batch(model, names):
        ours = model(**one).logits
    reference = theirs.eval()(**one, adapter_names=["__base__" if n is None else n for n in names]).logits
    assert torch.equal(ours, reference)


# the formula ----------------------------------------------------------------------------------------------


def test_gradients_of_the_update_are_right_in_float64():
    random = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 5), (2, 3, 4), (2, 4), (5, 2))  # y, x, A, B
    inputs = [torch.randn(s, generator=random, dtype=torch.float64, requires_grad=True) for s in shapes]
    for s in (1.7, 2.0):  # a scale that is a power of two goes another way
        assert torch.autograd.gradcheck(lambda y, x, A, B, s=s: low_rank_update(y, x, A, B, s), inputs)
        W, b = torch.randn(5, 4, generator=random).double(), torch.randn(5, generator=random).double()
        fused = functools.partial(lambda W, b, s, x, A, B: LowRankLinear.apply(x, W, b, A, B, s), W, b, s)
        assert torch.autograd.gradcheck(fused, inputs[1:])


@pytest.mark.parametrize("change", ["hook", "bias", "offload"])
def test_a_layer_that_is_more_than_a_product_is_called_itself(change):
    model = nonzero(LoRA(r=2, targets=("query",)).attach(tiny.model("bert")))
    layer, one, called = model.bert.encoder.layer[0].attention.self.query, tiny.batch(), []
    expected = model(**one).logits
    if change == "hook":
        layer.base_layer.register_forward_hook(lambda *_: called.append(1))
    elif change == "bias":  # as in LoRA + BitFit
        layer.base_layer.bias.requires_grad_(True)
    else:  # as accelerate places a layer on another device
        forward = layer.base_layer.forward
        layer.base_layer.forward = lambda x: called.append(1) or forward(x)
    logits = model(**one).logits
    assert torch.equal(logits, expected)
    logits.sum().backward()
    assert layer.base_layer.bias.grad is not None if change == "bias" else called


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_means_what_it_means_in_peft(family):
    theirs = peft.get_peft_model(tiny.model(family), peft.LoraConfig(
        target_modules="all-linear", task_type="SEQ_CLS" if family in tiny.ENCODERS else "CAUSAL_LM"))  # fmt: skip
    reference = {
        n.split("base_model.model.")[1] for n, m in theirs.named_modules() if hasattr(m, "lora_A") and m.lora_A
    }
    model = LoRA(targets="all-linear").attach(tiny.model(family))
    ours = {n for n, m in model.named_modules() if isinstance(m, LoRALayer)}
    # peft also takes BERT's pooler, which is no block; everything else is the same
    assert {n for n in reference if "pooler" not in n and "classifier" not in n} == ours


# several adapters on one base -----------------------------------------------------------------------------


def test_what_trains_is_named_without_its_adapter():
    model = tiny.model("llama")
    for r, name in ((2, "film"), (3, "product")):
        assert LoRA(r=r).attach(model, name) is model
    found = methods.trained(methods.activate(model, "film"))
    assert sorted(found)[0] == "model.layers.0.self_attn.q_proj.A" and len(found) == 2 * 2 * 2
    assert sum(p.numel() for p in found.values()) == methods.trainable(model) == LoRA(r=2).count(model.config)


# bad input ------------------------------------------------------------------------------------------------


def test_unknown_adapter_names():
    with pytest.raises(CourseError, match="no method is attached"):
        methods.activate(tiny.model("llama"), "film")
    model = LoRA(r=2).attach(tiny.model("llama"), "film")
    for attempt in (lambda: methods.activate(model, "flim"), lambda: methods.mixed_batch(model, ["flim"]).__enter__()):
        with pytest.raises(CourseError, match="unknown adapter 'flim'; did you mean 'film'"):
            attempt()


def test_checkpoints_of_another_method_family_or_other_targets(tmp_path):
    LoRA(r=2, alpha=4).save(LoRA(r=2, alpha=4).attach(tiny.model("llama")), tmp_path / "lora")
    theirs = peft.get_peft_model(tiny.model("llama"), peft.IA3Config(task_type="CAUSAL_LM"))
    theirs.save_pretrained(tmp_path / "ia3")
    for method, folder, family, said in [
        (LoRA(r=2, alpha=4), tmp_path / "ia3", "llama", "this checkpoint holds IA3, not LORA"),
        (LoRA(r=2, alpha=4), tmp_path / "lora", "opt", "is of another model or of other targets: 8 missing"),
        (LoRA(r=2, alpha=4, targets="all-linear"), tmp_path / "lora", "llama", "of other targets"),
        (LoRA(r=2, alpha=4), tmp_path, "llama", "is not an adapter checkpoint: it has no adapter_config.json"),
    ]:
        target = tiny.model(family)
        with pytest.raises(CourseError, match=said):
            method.load(target, folder)
        assert methods.attached(target) == {}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_adapters_of_different_targets_ranks_and_kinds_share_one_model(family):
    first = EVERYTHING[family][0]
    second = {"gpt2": "c_fc", "llama": "down_proj", "opt": "fc1"}.get(family, "value")
    make = {
        "q": LoRA(r=2, targets=first), "v": LoRA(r=5, targets=second, dora=True, dropout=0.1),
        "all": LoRA(r=3, alpha=3, targets="all-linear", rslora=True),
    }  # fmt: skip
    model, one, alone = tiny.model(family), tiny.batch(), {}
    plain = model(**one).logits
    for seed, (name, method) in enumerate(make.items()):
        alone[name] = nonzero(method.attach(model, name), seed)(**one).logits
    rows_answer_as_alone(model, list(make), one)
    for gone in ("v", "all", "q"):
        assert torch.equal(methods.activate(model, gone)(**one).logits, alone[gone])
        methods.remove(model, gone)
    assert torch.equal(model(**one).logits, plain)
