r"""A checkpoint says which method wrote it; of our own, `test_every_method.py` asks for that."""

from __future__ import annotations

import json

import peft
import pytest
import tiny

from coursekit import methods
from coursekit.errors import CourseError


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
