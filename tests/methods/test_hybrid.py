r"""Hybrids: which methods can be combined, that each does there what it does alone, and what of it peft can read.

What every method promises (start, freezing, saving, rows, generation, ...) is proved in `test_every_method.py` for
combinations that stand around one another and in one another.
"""

import json
from itertools import combinations

import peft
import pytest
import tiny
import torch
from attached import hooks, labelled, nonzero, refused, rows_answer_as_alone
from torch import nn

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import (
    IA3,
    BitFit,
    HoulsbyAdapter,
    Hybrid,
    LlamaAdapter,
    LoRA,
    PfeifferAdapter,
    PrefixTuning,
    PromptTuning,
)
from coursekit.methods.lora import LoRALayer
from coursekit.methods.mechanism.modules import AdapterWrapper, at, named_base_modules, unwrap
from coursekit.methods.selective.whole import Whole

PARTS = {
    "lora": lambda: LoRA(r=4, targets=("q_proj", "v_proj")),
    "ia3": lambda: IA3(targets=("fc2", "out_proj"), feedforward=("fc2",)),
    "houlsby": lambda: HoulsbyAdapter(r=4, init="zero", train_norms=True),
    "prompt": lambda: PromptTuning(n=3),
    "prefix": lambda: PrefixTuning(n=2),
    "bitfit": lambda: BitFit("query-and-second-mlp"),
    "rows": lambda: methods.SelectRows(targets=("k_proj",), rows=0.3),
}
PAIRS = [pytest.param(a, b, id=f"{a}-{b}") for a, b in combinations(PARTS, 2)]
each_family = pytest.mark.parametrize("family", tiny.FAMILIES)


def shape_of(model: nn.Module) -> list[tuple[str, type]]:
    return [(name, type(module)) for name, module in model.named_modules()]


# parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_any_two_that_touch_different_places_keep_all_promises_together(a, b, tmp_path):
    r"""On OPT, whose feed-forward gets all tokens in one dimension."""
    one, method = tiny.batch(padded=True), Hybrid(PARTS[a](), PARTS[b]())
    assert method.count(tiny.config("opt")) == PARTS[a]().count(tiny.config("opt")) + PARTS[b]().count(
        tiny.config("opt")
    )
    model, plain = tiny.model("opt"), tiny.model("opt")
    before, alone = plain(**one).logits, {}
    for seed, name in enumerate(("film", "product")):
        alone[name] = nonzero(method.attach(tiny.model("opt"), name), seed)(**one).logits
        nonzero(method.attach(model, name), seed)
    assert methods.trainable(model) == method.count(model.config)
    for name in alone:
        assert torch.equal(methods.activate(model, name)(**one).logits, alone[name])
    rows_answer_as_alone(model, ["product", None, "film"], one)
    method.save(model, tmp_path, "film")
    assert methods.from_checkpoint(tmp_path) == method
    again = methods.from_checkpoint(tmp_path).load(tiny.model("opt"), tmp_path)
    assert torch.equal(again(**one).logits, alone["film"])
    method.detach(model)
    assert shape_of(model) == shape_of(plain) and hooks(model) == 0
    assert torch.equal(model(**one).logits, before)


@each_family
def test_each_part_moves_what_it_moves_alone(family):
    r"""With the other part at its start, where it is an identity, the answers are those of the one alone."""
    one, prefix, lora = labelled(family, padded=True), PrefixTuning(n=2), LoRA(r=4)
    both, alone = Hybrid(lora, prefix).attach(tiny.model(family)), prefix.attach(tiny.model(family))
    with torch.no_grad():
        prefix._put(both, "default", nonzero_prefix(alone))
    assert torch.equal(both(**one).logits, alone(**one).logits)
    # And LoRA's update is in the queries and values of an attention behind the prefix.
    nonzero(both, scale=0.3)
    folded = tiny.model(family)
    with torch.no_grad():
        for path, layer in named_base_modules(both):
            if isinstance(layer, LoRALayer):
                delta = layer.branches["default"].delta
                unwrap(at(folded, path)).weight += delta.T if layer.transposed else delta
    prefix.attach(folded)
    with torch.no_grad():
        prefix._put(folded, "default", prefix._tensors(both, "default")["prompt_embeddings"])
        for theirs, own in zip(heads(both), heads(folded), strict=True):
            own.copy_(theirs)
    torch.testing.assert_close(both(**one).logits, folded(**one).logits, atol=1e-5, rtol=1e-4)


def nonzero_prefix(model: nn.Module) -> torch.Tensor:
    return PrefixTuning(n=2)._tensors(model, "default")["prompt_embeddings"]


def heads(model: nn.Module) -> list[nn.Parameter]:
    return [p for n, p in model.named_parameters() if ".copies." in n]


def test_the_order_of_the_parts_does_not_matter_nor_that_some_are_hybrids():
    assert Hybrid(Hybrid(LoRA(), PrefixTuning()), IA3()) == Hybrid(LoRA(), PrefixTuning(), IA3())
    one, found = tiny.batch(), []
    for parts in (
        (LoRA(r=4), PrefixTuning(n=2), PfeifferAdapter(r=4)),
        (PfeifferAdapter(r=4), PrefixTuning(n=2), LoRA(r=4)),
    ):
        torch.manual_seed(0)
        found.append(Hybrid(*parts).attach(tiny.model("bert")))
    assert Hybrid(LoRA(r=4), PrefixTuning(n=2)) == Hybrid(PrefixTuning(n=2), LoRA(r=4))
    assert [n for n, _ in found[0].named_parameters()] == [n for n, _ in found[1].named_parameters()]
    assert torch.equal(found[0](**one).logits, found[1](**one).logits)
    assert repr(Hybrid(PrefixTuning(n=2), IA3())) == f"Hybrid({IA3()!r}, {PrefixTuning(n=2)!r})"


def test_paths_and_keys_are_those_of_the_bare_model(tmp_path):
    r"""Prefix tuning wraps the attention that LoRA's query is in: neither targets nor keys may tell."""
    targets = ("attention.self.query", "attention.output.dense")
    method = Hybrid(PrefixTuning(n=2), LoRA(r=4, targets=targets))
    model = method.attach(tiny.model("bert"))
    again = Hybrid(PrefixTuning(n=2), LoRA(r=4, targets=targets)).attach(model, "second")  # into what stands already
    keys = {k.removeprefix("LORA.") for k in method._tensors(again, "second") if k.startswith("LORA.")}
    assert (
        keys
        == LoRA(r=4, targets=targets)._tensors(LoRA(r=4, targets=targets).attach(tiny.model("bert")), "default").keys()
    )
    assert not any(".base" in key for key in method._learned(model, "default"))


@pytest.mark.parametrize("family", ["bert", "opt", "gpt2"])
def test_a_later_adapter_with_other_targets_is_as_if_it_were_alone(family):
    r"""Its wrappers go under those that stand already: below hooks of the bottlenecks, inside the prefix."""
    low, high = {"bert": ("query", "output.dense"), "opt": ("q_proj", "fc2"), "gpt2": ("c_attn", "mlp.c_proj")}[family]

    def made(target: str) -> Hybrid:
        prefix = PrefixTuning(n=2)
        return Hybrid(LoRA(r=4, targets=(target,)), HoulsbyAdapter(r=4, init="zero"), prefix)

    one, model = tiny.batch(padded=True), tiny.model(family)
    nonzero(made(low).attach(model, "film"), 0)
    nonzero(made(high).attach(model, "product"), 1)
    alone = nonzero(made(high).attach(tiny.model(family), "product"), 1)
    assert torch.equal(model(**one).logits, alone(**one).logits)
    film = nonzero(made(low).attach(tiny.model(family), "film"), 0)
    assert torch.equal(methods.activate(model, "film")(**one).logits, film(**one).logits)
    methods.detach(model)
    assert shape_of(model) == shape_of(tiny.model(family)) and hooks(model) == 0


def test_wrappers_of_one_module_stand_in_their_order_whichever_came_first():
    model = tiny.model("bert")
    prefix = PrefixTuning(n=2)
    Hybrid(prefix, LoRA(r=4, targets=("query",))).attach(model, "a")
    Hybrid(prefix, LoRA(r=4, targets=("position_embeddings",))).attach(model, "b")
    outer = at(model, "bert.embeddings.position_embeddings")
    assert [type(m).__name__ for m in (outer, outer.base_layer)] == ["ShiftedPositions", "LoRALayer"]
    assert outer.unwrapped is model._coursekit.originals["bert.embeddings.position_embeddings"]
    alone = Hybrid(prefix, LoRA(r=4, targets=("position_embeddings",))).attach(tiny.model("bert"), "b")
    assert torch.equal(nonzero(model)(**tiny.batch()).logits, nonzero(alone)(**tiny.batch()).logits)


def test_a_prompt_s_keys_have_the_update_of_their_own_adapter():
    r"""LLaMA-Adapter makes keys of its prompts with the maps that LoRA changes, while other adapters speak."""
    method = Hybrid(LoRA(r=4, targets=("k_proj", "v_proj")), LlamaAdapter(n=3, layers=1))
    model, one = tiny.model("llama"), tiny.batch(3)
    names = ("film", "product", "third")
    for seed, name in enumerate(names):
        nonzero(method.attach(model, name), seed, 2)
    rows_answer_as_alone(model, names, one, atol=1e-4)


# LoRA and BitFit: peft's LoRA with bias="all" -----------------------------------------------------------------


@pytest.mark.parametrize("bias", ["none", "lora_only"])
def test_other_biases_of_peft_s_are_not_mistaken_for_all(bias, tmp_path):
    theirs = peft.get_peft_model(tiny.model("bert"), peft.LoraConfig(r=2, bias=bias, task_type="SEQ_CLS"))
    theirs.save_pretrained(tmp_path)
    message = (
        "holds LORA, not HYBRID"
        if bias == "none"
        else "trained with bias=lora_only, the method here has all: use Hybrid.from_checkpoint"
    )
    with pytest.raises(CourseError, match=message):
        Hybrid(LoRA(r=2, alpha=8), BitFit()).load(tiny.model("bert"), tmp_path)
    if bias == "none":
        assert isinstance(methods.from_checkpoint(tmp_path), LoRA)


def test_the_bias_inside_a_lora_layer_trains_and_the_frozen_one_does_not():
    model = nonzero(Hybrid(LoRA(r=2), BitFit()).attach(tiny.model("bert")))
    layer = at(model, "bert.encoder.layer.0.attention.self.query")
    before, one = layer.unwrapped.bias.clone(), labelled("bert")
    model(**one).loss.backward()
    (part,) = (m for m in layer.modules() if isinstance(m, Whole))
    assert part.values.grad.abs().sum() > 0 and layer.unwrapped.bias.grad is None
    assert torch.equal(layer.unwrapped.bias, before)
    x, W = torch.randn(2, 3, tiny.D_MODEL), layer.merged("default")["weight"]
    torch.testing.assert_close(layer(x), x @ W.T + part.values)


# refusals -------------------------------------------------------------------------------------------------


def test_one_model_carries_hybrids_of_one_make_up(tmp_path):
    model = nonzero(Hybrid(LoRA(r=4), PrefixTuning(n=2)).attach(tiny.model("bert")))
    other = Hybrid(LoRA(r=4), PfeifferAdapter(r=4))
    for method in (other, LoRA(r=4), PrefixTuning(n=2)):
        with refused("already carries Hybrid of LoRA and PrefixTuning; call detach", model):
            method.attach(model, "second")
    with refused("is a Hybrid of LoRA and PrefixTuning, not a Hybrid of LoRA and Pf", model):
        other.save(model, tmp_path)


def test_a_checkpoint_of_other_parts_or_settings_is_refused(tmp_path):
    method = Hybrid(LoRA(r=4), PrefixTuning(n=2))
    method.save(nonzero(method.attach(tiny.model("bert"))), tmp_path)
    fresh = tiny.model("bert")
    for other, message in (
        (
            Hybrid(LoRA(r=4), PfeifferAdapter(r=4)),
            "combines LORA and PREFIX_TUNING, the method here is a Hybrid of LoRA",
        ),
        (Hybrid(LoRA(r=4), PrefixTuning(n=3)), "trained with num_virtual_tokens=2, the method here has 3"),
        (LoRA(r=4), "holds HYBRID, not LORA"),
    ):
        with refused(message, fresh):
            other.load(fresh, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["parts"][0].pop("r")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CourseError, match="does not say 'r'"):
        Hybrid.from_checkpoint(tmp_path)


def test_a_part_that_objects_while_loading_leaves_the_others_as_they_were(tmp_path):
    r"""IA3 sees from the numbers that a checkpoint of GPT-2 is not the paper's, when Houlsby's part is loaded."""
    method = Hybrid(HoulsbyAdapter(r=2), IA3())
    method.save(nonzero(method.attach(tiny.model("gpt2"))), tmp_path)
    from safetensors.torch import load_file, save_file

    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    key = next(k for k in tensors if k.endswith("c_attn.ia3_l"))
    tensors[key][0] = 2.0
    save_file(tensors, file, metadata={"format": "pt"})
    model = nonzero(method.attach(tiny.model("gpt2")), 5)
    with refused("scales queries as well", model):
        method.load(model, tmp_path)


def test_a_model_s_own_hooks_stay_where_they_are():
    model, seen = tiny.model("opt"), []
    model.model.decoder.layers[0].fc2.register_forward_hook(lambda m, args, out: seen.append(type(m)))
    method = Hybrid(LoRA(r=2, targets=("fc2",)), HoulsbyAdapter(r=2))
    method.attach(model)
    model(**tiny.batch())
    method.detach(model)
    model(**tiny.batch())
    assert seen == [nn.Linear, nn.Linear]
    assert not any(isinstance(m, AdapterWrapper) for m in model.modules())


# Found in review -------------------------------------------------------------------------------------------------

WITH_WEIGHTS = {
    "attention": lambda: methods.ByType("attention"),
    "feed-forward": lambda: methods.ByType("feedforward"),
    "rows": lambda: methods.SelectRows(rows=0.5),
    "columns": lambda: methods.SelectColumns(columns=0.5),
    "top layers": lambda: methods.TopLayers(k=1),
    "norms": lambda: methods.NormTuning(),
}


@pytest.mark.parametrize("part", WITH_WEIGHTS)
def test_added_biases_work_beside_weights_that_train(part):
    r"""Llama has no biases: the layer whose weight trains gets its bias from the other part."""
    one, method = labelled("llama"), Hybrid(WITH_WEIGHTS[part](), BitFit(add_biases=True))
    model = method.attach(tiny.model("llama"))
    model(**one).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == method.count(model.config)
    assert all(p.grad is not None for p in trained)
    with torch.no_grad():
        beside = nonzero(model, scale=0.3)(**one).logits
        torch.testing.assert_close(method.merge(model)(**one).logits, beside, atol=1e-5, rtol=1e-4)
    method.attach(methods.unmerge(model), "second")
    assert set(methods.attached(model)) == {"default", "second"}


def test_added_biases_follow_the_model_into_another_precision():
    model = BitFit(add_biases=True).attach(tiny.model("llama"))
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        assert model.to(dtype)(**tiny.batch()).logits.dtype == dtype
