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
KINDS = ("bert", "gpt2", "llama")
#: Matrices of two shapes: the smaller takes a part of A and of B.
TWO = {"bert": ["query", "output.dense"], "gpt2": ["c_attn", "mlp.c_proj"], "llama": ["k_proj", "down_proj"]}
each_kind = pytest.mark.parametrize("kind", KINDS)


def from_peft(kind: str, folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    r"""A model with peft's VeRA whose vectors are away from their start, saved to `folder`."""
    task = "SEQ_CLS" if kind in tiny.ENCODERS else "CAUSAL_LM"
    config = peft.VeraConfig(**({"r": 40, "target_modules": TWO[kind], "task_type": task} | options))
    model = nonzero(peft.get_peft_model(tiny.model(kind).to(dtype), config)).eval()
    model.save_pretrained(folder)
    return model


@each_kind
def test_from_one_seed_it_starts_where_peft_s_does(kind, tmp_path):
    theirs = from_peft(kind, tmp_path, projection_prng_key=3)
    model = VeRA(r=40, targets=TWO[kind], seed=3).attach(tiny.model(kind))
    pair = model.base_model.vera.pairs["default"]
    assert torch.equal(pair.A, theirs.base_model.vera_A["default"])
    assert torch.equal(pair.B, theirs.base_model.vera_B["default"])
    assert pair.A.shape == (40, tiny.D_FF) and not torch.equal(pair.A[:, :5], 0 * pair.A[:, :5])
    for layer in VeRA(r=40).branches(model, "default"):
        branch = layer[1].branches["default"]
        assert torch.all(branch.d == 0.1) and torch.all(branch.b == 0)


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
    theirs, one = from_peft("llama", tmp_path, **options), labelled("llama")
    model = methods.from_checkpoint(tmp_path).load(tiny.model("llama"), tmp_path)
    assert torch.equal(model(**one).logits, theirs(**one).logits)
    assert methods.trainable(model) == sum(p.numel() for p in theirs.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind, options, said", [
    ("bert", dict(bias="all"), r"trained with bias='all', which the VeRA here does not have: use peft, or"),
    ("bert", dict(bias="vera_only"), "trained with bias='vera_only'"),
    ("llama", dict(modules_to_save=["lm_head"]), r"trained with modules_to_save=\['lm_head'\]"),
    ("llama", dict(modules_to_save=["norm"]), r"trained with modules_to_save=\['norm'\]"),
])  # fmt: skip
def test_what_peft_has_and_we_have_not_is_refused_by_its_name(kind, options, said, tmp_path):
    from_peft(kind, tmp_path, **options)
    with pytest.raises(CourseError, match=said) as error:
        methods.from_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


def test_a_setting_of_a_later_peft_and_missing_matrices(tmp_path):
    from_peft("llama", tmp_path)
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
