r"""One type of layer trains, or nothing but the head: against plain torch with the same parameters free."""

from __future__ import annotations

import pytest
import tiny
import torch
from attached import labelled, train
from torch import nn
from torch.nn import LayerNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from coursekit import methods
from coursekit.architecture import describe
from coursekit.methods import ByType, HeadOnly
from coursekit.methods.mechanism.modules import body_prefix

each_family = pytest.mark.parametrize("family", tiny.FAMILIES)
ATTENTION = {
    "bert": "attention",
    "roberta": "attention",
    "gpt2": "attn",
    "opt": "self_attn",
    "llama": "self_attn",
}
ALL = ("attention", "feedforward", "norm")


def of_type(model: nn.Module, family: str, kind: str) -> set[str]:
    r"""Names of the parameters of one type, by transformers' own classes and by where they stand."""
    shapes = describe(model.config)
    blocks = f"{body_prefix(model)}{shapes.block}."
    norms = {n for n, m in model.named_modules() if isinstance(m, (LayerNorm, LlamaRMSNorm))}
    found = set()
    for name, _ in model.named_parameters():
        module = name.rpartition(".")[0]
        if module in norms:
            own = "norm"
        elif not name.startswith(blocks):
            continue
        else:
            own = "attention" if ATTENTION[family] in name.split(".") else "feedforward"
        if own == kind:
            found.add(name)
    return found


@each_family
@pytest.mark.parametrize("kinds", [("norm",), ("attention", "feedforward"), ALL])
def test_what_moves_is_what_is_named_and_it_is_counted(family, kinds):
    method = ByType(kinds)
    model = method.attach(tiny.model(family))
    before = dict(tiny.model(family).named_parameters())
    expected = {name for kind in kinds for name in of_type(tiny.model(family), family, kind)}
    assert method.count(model.config) == sum(before[name].numel() for name in expected)
    train(model, [labelled(family, seed=i, padded=True) for i in range(3)], lr=1e-2)
    method.merge(model, undo=False)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert {n for n in moved if not n.startswith("classifier")} == expected


# the head alone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.ENCODERS)
def test_with_nothing_but_the_head_the_body_is_no_part_of_the_backward_pass(family, tmp_path):
    model, theirs = HeadOnly().attach(tiny.model(family)), tiny.model(family)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(name.startswith("classifier"))
    assert HeadOnly().count(model.config) == 0 and methods.trainable(model) == methods.trainable(theirs) > 0
    outputs = []
    model.base_model.register_forward_hook(lambda _, __, y: outputs.append(y[0]))
    batches = [labelled(family, seed=i, padded=True) for i in range(5)]
    assert train(model, batches, lr=1e-2) == train(theirs, batches, lr=1e-2)
    assert not any(y.requires_grad for y in outputs)
    HeadOnly().save(model, tmp_path)
    again = methods.from_checkpoint(tmp_path).load(tiny.model(family), tmp_path)
    assert torch.equal(again(**tiny.batch()).logits, theirs(**tiny.batch()).logits)
