r"""SHiRA: peft's places, outputs and files, and an update of high rank."""

import pytest
import tiny
import torch
from attached import nonzero, refused
from peft import ShiraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from coursekit import interop, methods
from coursekit.methods import LoRA, SHiRA
from coursekit.methods.selective.part_layer import parts_of
from coursekit.methods.selective.shira import Differences

TARGETS = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"]}
both_families = pytest.mark.parametrize("family", TARGETS)


def theirs(family: str, seed: int = 5) -> nn.Module:
    r"""peft's, with the differences away from 0."""
    task = {"bert": "SEQ_CLS", "llama": "CAUSAL_LM"}[family]
    config = ShiraConfig(r=2, random_seed=seed, target_modules=TARGETS[family], task_type=task)
    return nonzero(get_peft_model(tiny.model(family), config))


@both_families
def test_peft_s_seed_chooses_the_same_places_and_its_values_give_the_same_outputs(family):
    peft, ours, one = theirs(family), SHiRA(r=2, seed=5).attach(tiny.model(family)), tiny.batch()
    for path, parts in parts_of(ours, "default").items():
        layer, part = peft.base_model.model.get_submodule(path), parts["weight"]
        row, column = layer.shira_indices["default"].long()
        assert torch.equal(row * layer.in_features + column, part.index)
        with torch.no_grad():
            part.values.copy_(layer.shira_weight["default"])
    if family == "bert":
        ours.classifier.copies["default"].load_state_dict(
            peft.base_model.model.classifier.modules_to_save["default"].state_dict()
        )
    assert torch.equal(ours(**one).logits, peft(**one).logits)
    assert methods.trainable(ours) == sum(p.numel() for p in peft.parameters() if p.requires_grad)


def test_places_of_a_peft_file_come_in_any_order_with_their_values(tmp_path):
    peft, one = theirs("llama"), tiny.batch()
    peft.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    for key in [k for k in tensors if k.endswith("shira_weight")]:
        order = torch.randperm(len(tensors[key]), generator=torch.Generator().manual_seed(3))
        where = key.replace("shira_weight", "shira_indices")
        tensors |= {key: tensors[key][order], where: tensors[where][:, order].contiguous()}
    save_file(tensors, file)
    ours = methods.from_checkpoint(tmp_path).load(tiny.model("llama"), tmp_path)
    assert torch.equal(ours(**one).logits, peft(**one).logits)


def test_as_many_parameters_as_lora_and_a_rank_that_lora_cannot_have():
    model = SHiRA(r=2).attach(tiny.model("bert"))
    assert SHiRA(r=2).count(model.config) == LoRA(r=2).count(model.config)
    plain = tiny.model("bert").state_dict()
    nonzero(model)
    SHiRA(r=2).merge(model)
    path = "bert.encoder.layer.0.attention.self.query.weight"
    update = model.get_parameter(path).detach() - plain[path]
    assert int((update != 0).sum()) == 2 * (32 + 32)
    assert torch.linalg.matrix_rank(update) > 20  # of 32


def test_on_a_16_bit_base_the_sum_is_rounded_once():
    r"""Near 1 bfloat16 moves in steps of 1/128. A little more than half a step is one; rounded first, it is half."""
    W = torch.ones(4, 4, dtype=torch.bfloat16)
    part = Differences(W, torch.tensor([5]))
    with torch.no_grad():
        part.values.fill_(2**-8 * (1 + 2**-9))
    assert part.written(W)[1, 1] == 1 + 2**-7


def test_damaged_places_are_refused_and_change_nothing(tmp_path):
    model = nonzero(SHiRA(r=2).attach(tiny.model("bert")))
    SHiRA(r=2).save(model, tmp_path)
    config, tensors = interop.read(tmp_path)
    indices = next(key for key in tensors if key.endswith("indices"))
    weight = indices.replace("indices", "weight")
    twice = tensors[indices].clone()
    twice[:, 0] = twice[:, 1]
    broken = {
        "none": {key: value for key, value in tensors.items() if key != indices},
        "outside": tensors | {indices: tensors[indices] + 32},
        "twice": tensors | {indices: twice},
        "flat": tensors | {indices: tensors[indices][0]},
        "fewer": tensors | {indices: tensors[indices][:, 1:], weight: tensors[weight][1:]},
        "a weight less": tensors | {weight: tensors[weight][1:]},
    }
    for what, content in broken.items():
        interop.write(tmp_path / what, config, content)
        with refused("is of another model: it has no weights for bert", model):
            SHiRA(r=2).load(model, tmp_path / what)
