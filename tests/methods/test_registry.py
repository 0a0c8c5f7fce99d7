r"""A checkpoint says which method wrote it."""

from __future__ import annotations

import json

import peft
import pytest
import tiny
import torch
from attached import labelled, nonzero
from cases import CASES, build

from coursekit import methods
from coursekit.errors import CourseError


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_folder_is_enough_to_use_what_was_trained(case, tmp_path):
    family = case.families[-1]
    model = nonzero(case.make().attach(build(case, family)))
    case.make().save(model, tmp_path)
    found = methods.from_checkpoint(tmp_path)
    assert isinstance(case.make(), type(found))  # LoRA for those that `cases.py` gives what they look at
    again = found.load(build(case, family), tmp_path)
    assert torch.equal(again(**labelled(family)).logits, model(**labelled(family)).logits)


def test_of_peft_too(tmp_path):
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(tiny.model("llama"), config).save_pretrained(tmp_path)
    assert methods.from_checkpoint(tmp_path) == methods.LoRA(r=3, alpha=6, targets=("q_proj",))


def test_of_a_method_that_the_course_does_not_have(tmp_path):
    methods.LoRA(r=2).save(methods.LoRA(r=2).attach(tiny.model("llama")), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "LOHA"}))
    with pytest.raises(CourseError, match="unknown method in the checkpoint 'LOHA'.*LORA"):
        methods.from_checkpoint(tmp_path)
    with pytest.raises(CourseError, match="is not an adapter checkpoint"):
        methods.from_checkpoint(tmp_path / "nothing")
