r"""Methods that train whole tensors: against the same tensors trained in place, against peft, against the papers."""

from __future__ import annotations

import peft
import pytest
import tiny
import torch
from attached import labelled, nonzero, train
from torch import nn
from transformers import BertConfig, GPT2Config, LlamaConfig, RobertaConfig

from coursekit import counts, methods
from coursekit.errors import CourseError
from coursekit.memory.measure import measure
from coursekit.methods import BitFit, ByType, HeadOnly, NormTuning, TopLayers
from coursekit.methods.selective.part_layer import parts_of

#: A method -> which parameters of the plain model it stands for.
TWINS = {
    "BitFit": (BitFit(), lambda name: name.endswith("bias")),
    "TopLayers": (TopLayers(k=1), lambda name: ".1." in name),
    "NormTuning": (NormTuning(), lambda name: "norm" in name.lower() or ".ln_" in name),
    "attention": (ByType("attention"), lambda name: "att" in name and "norm" not in name.lower()),
    "feedforward": (ByType("feedforward"), lambda name: any(part in name for part in (
        "intermediate.dense", ".output.dense", "mlp", "fc1", "fc2")) and "att" not in name),
}  # fmt: skip
TWIN_CASES = [pytest.param(key, family, id=f"{key}-{family}") for key in TWINS for family in tiny.FAMILIES
              if (key, family) != ("BitFit", "llama")]  # fmt: skip
HEADS = ("classifier", "score")


@pytest.mark.parametrize(("key", "family"), TWIN_CASES)
def test_it_trains_like_the_same_tensors_trained_in_place(key, family):
    method, chosen = TWINS[key]
    model, plain = method.attach(tiny.model(family)), tiny.model(family)
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(chosen(name) or name.startswith(HEADS))
    body = sum(p.numel() for n, p in plain.named_parameters() if chosen(n) and not n.startswith(HEADS))
    assert method.count(model.config) == body
    batches = [labelled(family, seed=i) for i in range(5)]
    torch.testing.assert_close(
        train(model, batches, lr=1e-2), train(plain, batches, lr=1e-2), atol=1e-5, rtol=1e-5
    )
    one = tiny.batch()
    torch.testing.assert_close(model(**one).logits, plain(**one).logits, atol=1e-4, rtol=1e-4)
    method.merge(model)
    torch.testing.assert_close(model(**one).logits, plain(**one).logits, atol=1e-4, rtol=1e-4)


# BitFit ---------------------------------------------------------------------------------------------------


def test_published_counts():
    bert = BertConfig()
    assert BitFit().count(bert) == counts.bitfit(bert) == 102_912  # 0.1M in the LoRA paper's table 2
    # b_q and b_m2 are 768 and 3,072 numbers of each of 12 blocks: 0.04 % of BERT, as in the paper's section 4.
    assert BitFit("query-and-second-mlp").count(bert) == 12 * (768 + 3072)
    gpt2_medium = GPT2Config(n_embd=1024, n_layer=24, n_head=16)
    assert TopLayers(k=2).count(gpt2_medium) == 25_192_448  # 25.19M: Hu et al. 2021, table 3
    assert TopLayers(k=2).count(gpt2_medium) == counts.top_layers(gpt2_medium, 2)
    # A RoBERTa classifier has no pooler, whose bias is among the 102,912 of the body alone.
    assert BitFit().count(RobertaConfig()) == 102_912 - 768
    assert HeadOnly().count(bert) == 0


@pytest.mark.parametrize("biases", ["all", "query-and-second-mlp"])
def test_a_model_without_biases_is_an_error_that_says_what_to_do(biases):
    model = tiny.model("llama")
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(CourseError, match=r"this llama model has none .* BitFit\(add_biases=True\)"):
        BitFit(biases).attach(model)
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}
    assert methods.attached(model) == {} and BitFit(biases).count(model.config) == 0


def test_added_biases_start_at_zero_and_there_is_one_for_each_output():
    method, model, plain, one = (
        BitFit(add_biases=True),
        tiny.model("llama"),
        tiny.model("llama"),
        tiny.batch(),
    )
    method.attach(model)
    parts = parts_of(model, "default")
    linear = {n for n, m in plain.named_modules() if isinstance(m, nn.Linear) and ".layers." in n}
    assert parts.keys() == linear
    assert all(torch.all(p["bias"].values == 0) for p in parts.values())
    assert torch.equal(model(**one).logits, plain(**one).logits)
    nonzero(model)
    for path, module in plain.named_modules():
        if path in parts:
            module.bias = nn.Parameter(parts[path]["bias"].values.detach().clone())
    torch.testing.assert_close(model(**one).logits, plain(**one).logits)
    method.merge(model)
    assert all(model.get_submodule(path).bias is not None for path in linear)
    methods.unmerge(model)
    method.detach(model)
    assert all(model.get_submodule(path).bias is None for path in linear)


def test_of_a_fused_bias_only_the_queries_third_trains():
    model = BitFit("query-and-second-mlp").attach(tiny.model("gpt2"))
    path = "transformer.h.0.attn.c_attn"
    frozen = tiny.model("gpt2").get_submodule(path).bias
    train(model, [labelled("gpt2", seed=i) for i in range(3)], lr=1e-2)
    bias = BitFit("query-and-second-mlp").merge(model).get_submodule(path).bias
    d = model.config.n_embd
    assert torch.equal(bias[d:], frozen[d:]) and not torch.any(bias[:d] == frozen[:d])


def test_with_biases_alone_a_linear_layer_keeps_nothing_for_the_backward():
    r"""$\partial L/\partial b$ is the sum of what arrives; only a trained weight needs the input again."""
    kept = {}
    for method in (BitFit(), ByType(("attention", "feedforward"))):
        model = method.attach(tiny.model("bert"))
        kept[type(method)] = measure(model, labelled("bert", seed=0)).activations
    assert kept[BitFit] < kept[ByType]
    layer = BitFit().attach(tiny.model("bert")).get_submodule("bert.encoder.layer.0.intermediate.dense")
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape), lambda t: t):
        layer(torch.randn(2, 3, tiny.D_MODEL)).sum()
    assert (6, tiny.D_MODEL) not in saved and (2, 3, tiny.D_MODEL) not in saved


@pytest.mark.parametrize("make", [
    lambda: BitFit("query"), lambda: TopLayers(0), lambda: TopLayers(True), lambda: ByType(()),
    lambda: ByType("attentions"),
])  # fmt: skip
def test_settings_that_make_no_sense(make):
    with pytest.raises(CourseError, match="known|positive integer|at least one|did you mean"):
        make()


# top layers ---------------------------------------------------------------------------------------------


def test_the_backward_pass_ends_where_the_first_trained_block_begins():
    model = TopLayers(k=1).attach(tiny.model("bert"))
    hidden = model(**labelled("bert"), output_hidden_states=True).hidden_states
    assert [h.requires_grad for h in hidden] == [False, False, True]  # embeddings, block 0, block 1


def test_more_blocks_than_there_are():
    with pytest.raises(CourseError, match="k must be at most 2, the number of blocks of this model; got 3"):
        TopLayers(k=3).attach(tiny.model("bert"))


def test_the_baseline_needs_a_task_head():
    model = HeadOnly().attach(tiny.model("bert"))
    assert methods.trainable(model) == counts.head(model.config, "classification")
    with pytest.raises(CourseError, match="no task head"):
        HeadOnly().attach(tiny.model("gpt2"))


# norms: peft ----------------------------------------------------------------------------------------------

NORM_NAMES = {
    "bert": ["LayerNorm"],
    "roberta": ["LayerNorm"],
    "gpt2": ["ln_1", "ln_2", "ln_f"],
    "opt": ["self_attn_layer_norm", "final_layer_norm"],
    "llama": ["input_layernorm", "post_attention_layernorm", "norm"],
}


def with_peft(family: str) -> nn.Module:
    config = peft.LNTuningConfig(
        target_modules=NORM_NAMES[family], task_type="SEQ_CLS" if family in tiny.ENCODERS else "CAUSAL_LM"
    )
    return peft.get_peft_model(tiny.model(family), config)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_norm_tuning_is_pefts_and_checkpoints_go_both_ways(family, tmp_path):
    theirs, one = with_peft(family).eval(), tiny.batch(padded=True)
    nonzero(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = NormTuning().load(tiny.model(family), tmp_path / "theirs")
    assert torch.equal(ours(**one).logits, theirs(**one).logits)
    nonzero(ours, seed=5)
    NormTuning().save(ours, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(tiny.model(family), tmp_path / "ours").eval()
    assert torch.equal(again(**one).logits, ours(**one).logits)
    assert methods.from_checkpoint(tmp_path / "theirs") == NormTuning(targets=NORM_NAMES[family])


def test_norm_tuning_trains_as_in_peft():
    ours, theirs = NormTuning().attach(tiny.model("llama")), with_peft("llama")
    batches = [labelled("llama", seed=i) for i in range(20)]
    losses = train(ours, batches), train(theirs, batches)
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    assert losses[0][-1] != losses[0][0]


def test_a_llama_counts_no_biases():
    assert counts.bitfit(LlamaConfig()) == BitFit().count(LlamaConfig()) == 0
    assert BitFit(add_biases=True).count(LlamaConfig()) == 32 * (4 * 4096 + 2 * 11_008 + 4096)


@pytest.mark.parametrize("make", [
    lambda: methods.ByType(None), lambda: methods.ByType(3), lambda: methods.BitFit(add_biases="no"),
    lambda: methods.SelectRows(biases="no"), lambda: methods.IntrinsicSAID(structure="no"),
    lambda: methods.IntrinsicSAID(seed=2**70),
])  # fmt: skip
def test_settings_that_only_look_right_are_refused(make):
    with pytest.raises(CourseError):
        make()


@pytest.mark.parametrize("method", [
    TopLayers(k=1), BitFit(), ByType(("attention", "norm")), NormTuning(),
    methods.FishMask(keep=1.0, score="magnitude"),
], ids=lambda method: type(method).__name__)  # fmt: skip
def test_norms_without_weights_are_not_counted_wrongly(method):
    model = tiny.decoder("opt", layer_norm_elementwise_affine=False)
    for use in (method.count, lambda _: method.attach(model)):
        with pytest.raises(CourseError, match="norms of this model have no weights"):
            use(model.config)
    assert not methods.attached(model)
