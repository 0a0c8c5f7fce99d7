r"""VeRA against peft with the same vectors, against the formula, and against the paper's counts."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
from attached import labelled, nonzero
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import RobertaConfig

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import VeRA

pytestmark = pytest.mark.filterwarnings("ignore:Specified to not", "ignore:fan_in_fan_out")


def from_peft(folder: Path, **options: Any) -> nn.Module:
    r"""A Llama with peft's VeRA whose vectors are away from their start, saved to `folder`."""
    targets = ["k_proj", "down_proj"]  # matrices of two shapes: the smaller takes a part of A and of B
    config = peft.VeraConfig(**({"r": 40, "target_modules": targets, "task_type": "CAUSAL_LM"} | options))
    model = nonzero(peft.get_peft_model(tiny.model("llama"), config)).eval()
    model.save_pretrained(folder)
    return model


def test_the_vectors_start_as_in_the_paper():
    model = VeRA(r=4).attach(tiny.model("llama"))
    branches = [layer.branches["default"] for _, layer in VeRA().branches(model, "default")]
    assert all(torch.all(branch.d == 0.1) and torch.all(branch.b == 0) for branch in branches)


@pytest.mark.parametrize("size, width, r, published", [("base", 768, 1024, 43_008), ("large", 1024, 256, 61_440)])
def test_the_paper_s_counts_and_a_rank_above_the_width(size, width, r, published):
    r"""Table 2: 0.043M for RoBERTa base, 0.061M for large."""
    layers = {"base": 12, "large": 24}[size]
    config = RobertaConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64)
    assert VeRA(r=r).count(config) == layers * 2 * (width + r) == published


# Folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    dict(target_modules=r".*\.1\..*(k_proj|down_proj)"),
    dict(layers_to_transform=[1]),
    dict(target_modules="all-linear"),
    dict(target_modules=None),
    dict(init_weights=False),
], ids=str)  # fmt: skip
def test_the_tensors_say_which_layers_peft_meant(options, tmp_path):
    theirs, one = from_peft(tmp_path, **options), labelled("llama")
    model = methods.from_checkpoint(tmp_path).load(tiny.model("llama"), tmp_path)
    assert torch.equal(model(**one).logits, theirs(**one).logits)
    assert methods.trainable(model) == sum(p.numel() for p in theirs.parameters() if p.requires_grad)


def test_a_setting_of_a_later_peft_and_missing_matrices(tmp_path):
    from_peft(tmp_path)
    file, tensors = tmp_path / "adapter_config.json", load_file(tmp_path / "adapter_model.safetensors")
    settings, method = json.loads(file.read_text()), VeRA.from_checkpoint(tmp_path)
    file.write_text(json.dumps(settings | {"use_something": 3, "not_used": None}))
    for attempt in (lambda: methods.from_checkpoint(tmp_path), lambda: method.load(tiny.model("llama"), tmp_path)):
        with pytest.raises(CourseError, match="trained with use_something=3"):
            attempt()
    file.write_text(json.dumps(settings))
    save_file({k: v for k, v in tensors.items() if "vera_A" not in k}, tmp_path / "adapter_model.safetensors")
    model = tiny.model("llama")
    with pytest.raises(CourseError, match="1 missing, such as vera_A"):
        methods.from_checkpoint(tmp_path).load(model, tmp_path)
    assert methods.attached(model) == {} and not hasattr(model.model, "vera")
