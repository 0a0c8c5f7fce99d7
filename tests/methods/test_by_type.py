r"""One type of layer trains, or nothing but the head: against plain torch with the same parameters free."""

import pytest
import tiny
import torch
from attached import labelled, train

from coursekit import methods
from coursekit.methods import HeadOnly

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
