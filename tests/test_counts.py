r"""Closed-form counts: against models built on the meta device, and the published tables they come from."""

from __future__ import annotations

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
    RobertaConfig,
)

from coursekit import counts
from coursekit.architecture import describe
from coursekit.comparison import published
from coursekit.errors import CourseError

GPT3 = GPT2Config(n_embd=12288, n_layer=96, n_head=96, n_positions=2048, vocab_size=50257)
GPT2_M = GPT2Config(n_embd=1024, n_layer=24, n_head=16)
GPT2_L = GPT2Config(n_embd=1280, n_layer=36, n_head=20)
ROBERTA = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
ROBERTA_L = RobertaConfig(
    vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, hidden_size=1024, num_hidden_layers=24,
    num_attention_heads=16, intermediate_size=4096,
)  # fmt: skip

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


def square(config, r):
    r"""LoRA on query and value as separate d x d matrices, as the paper has it, not on GPT-2's fused c_attn."""
    arch = describe(config)
    return 2 * arch.n_layers * counts.low_rank(arch.d_model, arch.d_model, r)


def on_query_and_value(config, r):
    r"""LoRA on the matrices that are there."""
    arch = describe(config)
    found = [m for m in arch.matrices if m.name.endswith(("query_proj", "value_proj"))]
    return sum(arch.copies(m) * counts.low_rank(m.d_in, m.d_out, r) for m in found)


def test_deberta_xxl_is_counted_on_its_own_modules():
    assert (
        counts.full(DEBERTA_XXL) == sum(p.numel() for p in on_meta(DEBERTA_XXL).parameters()) == 1_564_549_632
    )


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
    assert counts.top_layers(config, 2) == sum(
        p.numel() for p in model.get_submodule(arch.block)[-2:].parameters()
    )


# Hu et al. 2021, tables 2 to 4: (published, exact, what the formula gives).
PUBLISHED = {
    "GPT-3 LoRA 4.7M": (4.7e6, 4_718_592, lambda: square(GPT3, 1)),
    "GPT-3 LoRA 37.7M": (37.7e6, 37_748_736, lambda: square(GPT3, 8)),
    "GPT-3 Adapter H 7.1M": (7.1e6, 7_078_080, lambda: counts.houlsby(GPT3, 1)),
    "GPT-3 Adapter H 40.1M": (40.1e6, 40_109_568, lambda: counts.houlsby(GPT3, 8)),
    "GPT-3 PreEmbed 3.2M": (3.2e6, 3_244_032, lambda: counts.prompt(GPT3, 256 + 8)),
    "GPT-2 M FT Top2 25.19M": (25.19e6, 25_192_448, lambda: counts.top_layers(GPT2_M, 2)),
    "GPT-2 M Adapter L .37M": (0.37e6, 368_784, lambda: counts.lin(GPT2_M, 6)),
    "GPT-2 M Adapter L 11.09M": (11.09e6, 11_089_152, lambda: counts.lin(GPT2_M, 224)),
    "GPT-2 L FT 774.03M": (774.03e6, 774_030_080, lambda: counts.full(GPT2_L, "causal")),
    "GPT-2 L Adapter L .88M": (0.88e6, 875_808, lambda: counts.lin(GPT2_L, 8)),
    "GPT-2 L Adapter L 23.00M": (23.00e6, 23_002_848, lambda: counts.lin(GPT2_L, 248)),
    "RoBERTa base LoRA .3M": (0.3e6, 294_912, lambda: square(ROBERTA, 8)),
    "RoBERTa base BitFit .1M": (0.1e6, 102_912, lambda: counts.bitfit(ROBERTA)),
    "RoBERTa base Adapter D .9M": (0.9e6, 894_528, lambda: counts.pfeiffer(ROBERTA, 48)),
    "RoBERTa large LoRA .8M": (0.8e6, 786_432, lambda: square(ROBERTA_L, 8)),
    "RoBERTa large Adapter P .8M": (0.8e6, 811_392, lambda: counts.pfeiffer(ROBERTA_L, 16)),
    "RoBERTa large Adapter H .8M": (0.8e6, 835_968, lambda: counts.houlsby(ROBERTA_L, 8)),
    "DeBERTa XXL LoRA 4.7M": (4.7e6, 4_718_592, lambda: on_query_and_value(DEBERTA_XXL, 16)),
}

# Published figures that do not follow from the papers' own formulas: the exact value is not the printed one.
NOT_REPRODUCED = {
    "GPT-3 BitFit 14.2M": (14.2e6, 12_988_416, lambda: counts.bitfit(GPT3)),
    "GPT-3 FT 175,255.8M": (175_255.8e6, 174_604_259_328, lambda: counts.full(GPT3, "causal")),
    "GPT-2 M LoRA .35M": (0.35e6, 393_216, lambda: square(GPT2_M, 4)),
    "GPT-2 M Adapter H 11.09M": (11.09e6, 11_064_576, lambda: counts.houlsby(GPT2_M, 112)),
    "GPT-2 M FT 354.92M": (354.92e6, 354_823_168, lambda: counts.full(GPT2_M, "causal")),
    "GPT-2 L LoRA .77M": (0.77e6, 737_280, lambda: square(GPT2_L, 4)),
    "RoBERTa large Adapter P 3.0M": (3.0e6, 3_171_840, lambda: counts.pfeiffer(ROBERTA_L, 64)),
    "RoBERTa large Adapter H 6.0M": (6.0e6, 6_343_680, lambda: counts.houlsby(ROBERTA_L, 64)),
}


def digits(label: str) -> int:
    r"""Decimals printed in the published figure, e.g. 2 for 25.19M."""
    figure = label.rsplit(" ", 1)[-1].rstrip("M")
    return len(figure.partition(".")[2])


def as_printed(label: str, exact: int) -> float:
    return round(exact / 1e6, digits(label))


@pytest.mark.parametrize("label", PUBLISHED)
def test_published_count_follows_from_the_formula(label):
    published, exact, formula = PUBLISHED[label]
    assert formula() == exact
    # The papers cut as well as round, so one unit of the last printed place.
    assert as_printed(label, exact) == pytest.approx(published / 1e6, abs=1.001 * 10 ** -digits(label))


@pytest.mark.parametrize("label", NOT_REPRODUCED)
def test_published_count_that_does_not_follow(label):
    published, exact, formula = NOT_REPRODUCED[label]
    assert formula() == exact
    assert as_printed(label, exact) != pytest.approx(published / 1e6, abs=0.5 * 10 ** -digits(label))


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
