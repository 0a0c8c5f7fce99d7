r"""Norms that train, against peft's LNTuning: in 16 bits, in Llama's relatives, with dropout, folded, some only."""

from __future__ import annotations

import peft
import pytest
import relatives
import tiny
import torch
from attached import labelled, nonzero, train
from torch import nn

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import NormTuning

KINDS = tiny.FAMILIES + relatives.RELATIVES
each_kind = pytest.mark.parametrize("kind", KINDS)
#: peft has no norms in its tables for these families, and of Qwen2 not all.
TARGETS = {
    "bert": ["LayerNorm"],
    "roberta": ["LayerNorm"],
    "opt": ["self_attn_layer_norm", "final_layer_norm"],
    "qwen2": ["input_layernorm", "post_attention_layernorm", "norm"],
}


def batch(kind: str, **kwargs) -> dict[str, torch.Tensor]:
    return labelled("llama" if kind in relatives.RELATIVES else kind, **kwargs)


def from_peft(kind: str, **options) -> nn.Module:
    r"""A model with peft's LNTuning."""
    task = "SEQ_CLS" if kind in tiny.ENCODERS else "CAUSAL_LM"
    config = peft.LNTuningConfig(task_type=task, **({"target_modules": TARGETS.get(kind)} | options))
    return peft.get_peft_model(relatives.model(kind), config).eval()


@each_kind
def test_in_sixteen_bits_logits_equal_peft_to_the_bit(kind, tmp_path):
    model = nonzero(NormTuning().attach(relatives.model(kind).to(torch.bfloat16)))
    NormTuning().save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(relatives.model(kind).to(torch.bfloat16), tmp_path).eval()
    one = batch(kind, padded=True)
    with torch.no_grad():
        ours, reference = model(**one).logits, theirs(**one).logits
        assert ours.dtype == torch.bfloat16 and torch.equal(ours, reference)
        assert not torch.equal(ours, relatives.model(kind).to(torch.bfloat16)(**one).logits)


@each_kind
def test_checkpoints_go_both_ways(kind, tmp_path):
    theirs, one = nonzero(from_peft(kind)), batch(kind, padded=True)
    theirs.save_pretrained(tmp_path / "theirs")
    for method in (NormTuning(), methods.from_checkpoint(tmp_path / "theirs")):
        model = method.load(relatives.model(kind), tmp_path / "theirs")
        assert torch.equal(model(**one).logits, theirs(**one).logits)
        assert methods.trainable(model) == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    NormTuning().save(nonzero(model, seed=5), tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(relatives.model(kind), tmp_path / "ours").eval()
    assert torch.equal(again(**one).logits, model(**one).logits)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "qwen2"])
def test_ten_steps_with_dropout_follow_peft_to_the_bit(kind):
    ours, theirs = NormTuning().attach(relatives.model(kind)), from_peft(kind)
    batches, losses = [batch(kind, seed=i, padded=True) for i in range(10)], []
    for model in (ours, theirs):
        torch.manual_seed(1)
        losses.append(train(model.train(), batches, lr=3e-3))
    assert losses[0] == losses[1] and len(set(losses[0])) == 10


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_folded_norms_are_peft_s(kind, tmp_path):
    model = nonzero(NormTuning().attach(relatives.model(kind)))
    NormTuning().save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(relatives.model(kind), tmp_path).merge_and_unload()
    NormTuning().merge(model, undo=False)
    reference = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        copy = name.replace(
            "classifier.", "classifier.modules_to_save.default."
        )  # which peft leaves in its wrapper
        assert torch.equal(parameter, reference[name if name in reference else copy]), name


@pytest.mark.parametrize("kind, targets, norms", [
    ("llama", ["input_layernorm"], 2), ("llama", ["norm"], 1), ("gpt2", ["h.0.ln_1", "ln_f"], 2),
    ("bert", ["attention.output.LayerNorm"], 2), ("qwen2", None, 2),  # peft's own choice there
])  # fmt: skip
def test_some_norms_only_as_in_peft(kind, targets, norms, tmp_path):
    theirs, one = nonzero(from_peft(kind, target_modules=targets)), batch(kind)
    theirs.save_pretrained(tmp_path / "theirs")
    method = methods.from_checkpoint(tmp_path / "theirs")
    model = method.load(relatives.model(kind), tmp_path / "theirs")
    assert torch.equal(model(**one).logits, theirs(**one).logits)
    size = tiny.D_MODEL * (1 if kind in ("llama", "qwen2") else 2)
    assert method.count(model.config) == norms * size
    assert methods.trainable(model) == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    method.save(model, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(relatives.model(kind), tmp_path / "ours").eval()
    assert torch.equal(again(**one).logits, theirs(**one).logits)
    fresh = relatives.model(kind)
    with pytest.raises(CourseError, match="of another model or of other targets"):
        NormTuning().load(fresh, tmp_path / "theirs")
    assert methods.attached(fresh) == {}


def test_a_checkpoint_that_names_norms_by_a_pattern_loads_where_the_method_is_given(tmp_path):
    theirs, one = nonzero(from_peft("llama", target_modules=r".*norm")), batch("llama")
    theirs.save_pretrained(tmp_path)
    assert torch.equal(NormTuning().load(tiny.model("llama"), tmp_path)(**one).logits, theirs(**one).logits)
    with pytest.raises(CourseError, match=r"by the pattern '.\*norm': load it with the method that you mean"):
        methods.from_checkpoint(tmp_path)


def test_norms_of_sixteen_bit_models_train_in_full_precision():
    r"""Steps too small for 16 bits near 1 add up all the same: bfloat16 there has steps of 1/128."""
    model = NormTuning().attach(tiny.model("llama").to(torch.bfloat16))
    own = model.model.norm.weights["default"].values
    start = own.detach().clone()
    train(model, [labelled("llama", seed=i) for i in range(3)], lr=1e-4)
    assert own.dtype == torch.float32 and 0 < (own - start).abs().max() < 1 / 1024
