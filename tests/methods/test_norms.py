r"""Norms that train: patterns of peft's, and 16 bits. The rest against peft is in `test_against_peft.py`."""

import peft
import pytest
import tiny
import torch
from attached import labelled, nonzero, train

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import NormTuning


def test_a_checkpoint_that_names_norms_by_a_pattern_loads_where_the_method_is_given(tmp_path):
    config = peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=r".*norm")
    theirs, one = nonzero(peft.get_peft_model(tiny.model("llama"), config)).eval(), tiny.batch()
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
