r"""Closed-form counts against models built on the meta device. Published tables: tests/comparison/test_published.py."""

import families
import pytest
import tiny
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    GPT2Config,
)

from coursekit import counts
from coursekit.architecture import describe
from coursekit.comparison import published
from coursekit.errors import CourseError

GPT3 = GPT2Config(n_embd=12288, n_layer=96, n_head=96, n_positions=2048, vocab_size=50257)
GPT2_M = GPT2Config(n_embd=1024, n_layer=24, n_head=16)
DEBERTA_XXL = published.config("DeBERTa XXL")

AUTO = {None: AutoModel, "causal": AutoModelForCausalLM, "classification": AutoModelForSequenceClassification}
ENCODERS = families.ENCODERS
DECODERS = (*tiny.DECODERS, *(kind for kind in families.OTHERS if kind not in (*ENCODERS, "t5")))
CASES = [
    *[(f, t) for f in ENCODERS + DECODERS for t in AUTO if t != "causal" or f in DECODERS],
    ("t5", None),
    ("t5", "causal"),
]


def on_meta(config, task=None):
    with torch.device("meta"):
        auto = AutoModelForSeq2SeqLM if (config.model_type, task) == ("t5", "causal") else AUTO[task]
        return auto.from_config(config)


def test_deberta_xxl_is_counted_on_its_own_modules():
    assert counts.full(DEBERTA_XXL) == sum(p.numel() for p in on_meta(DEBERTA_XXL).parameters()) == 1_564_549_632


@pytest.mark.parametrize(("family", "task"), CASES)
def test_every_tensor_by_name_and_shape(family, task):
    config = families.config(family, num_labels=3)
    real = {name: tuple(p.shape) for name, p in on_meta(config, task).named_parameters()}
    assert dict(counts.tensors(config, task, 3)) == real


@pytest.mark.parametrize("family", DECODERS)
def test_untied_output_layer_is_counted(family):
    config = families.config(family, tie_word_embeddings=False)
    real = sum(p.numel() for p in on_meta(config, "causal").parameters())
    assert counts.full(config, "causal") == real
    assert counts.full(config, "causal") - counts.full(config) == tiny.VOCAB * tiny.D_MODEL


@pytest.mark.parametrize("family", ENCODERS + DECODERS)
def test_bitfit_and_top_layers_against_the_model(family):
    config = families.config(family)
    model, arch = on_meta(config), describe(config)
    biases = sum(p.numel() for n, p in model.named_parameters() if n.endswith("bias"))
    assert counts.bitfit(config) == biases
    assert counts.top_layers(config, 2) == sum(p.numel() for p in model.get_submodule(arch.block)[-2:].parameters())


def test_gpt3_on_the_meta_device():
    real = sum(p.numel() for p in on_meta(GPT3, "causal").parameters())
    assert real == counts.full(GPT3, "causal") == 174_604_259_328


def test_pfeiffer_is_half_of_houlsby():
    assert 2 * counts.pfeiffer(GPT2_M, 64) == counts.houlsby(GPT2_M, 64)


def test_prefix_and_ia3_are_narrower_under_grouped_queries():
    arch = describe(tiny.config("llama"))
    assert arch.d_kv == arch.d_model // 2
    assert counts.prefix(arch, 5) == 2 * arch.n_layers * 5 * arch.d_kv
    assert counts.ia3(arch) == arch.n_layers * (2 * arch.d_kv + arch.d_ff)


def test_head_is_what_the_task_adds():
    assert counts.head(tiny.config("bert"), "classification", 5) == 5 * tiny.D_MODEL + 5
    assert counts.head(tiny.config("llama"), "causal") == 0


def test_wrong_tasks_are_explained():
    with pytest.raises(CourseError, match="did you mean 'causal'"):
        counts.full(tiny.config("gpt2"), "casual")
    with pytest.raises(CourseError, match="encoder"):
        counts.full(tiny.config("bert"), "causal")
    with pytest.raises(CourseError, match="not described"):
        counts.full(AutoConfig.for_model("bloom"))
    with pytest.raises(CourseError, match="classifier of t5 is not described"):
        counts.full(families.config("t5"), "classification")
