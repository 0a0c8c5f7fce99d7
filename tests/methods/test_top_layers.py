r"""The last blocks train: against plain torch, in 4 bits as well; below them nothing is kept for the backward pass."""

import pytest
import tiny
import torch
from attached import body, labelled, train
from torch import nn
from transformers import GPT2Config

from coursekit import counts, methods
from coursekit.architecture import describe
from coursekit.memory.measure import measure
from coursekit.methods import TopLayers
from coursekit.methods.mechanism.modules import body_prefix
from coursekit.qlora import quantize_model

each_family = pytest.mark.parametrize("family", tiny.FAMILIES)
DEPTH = {"gpt2": "n_layer"}


def model_of(family: str, layers: int) -> nn.Module:
    return tiny.model(family, **{DEPTH.get(family, "num_hidden_layers"): layers})


def block(model: nn.Module, number: int) -> str:
    r"""What the names of the parameters of one block start with."""
    return f"{body_prefix(model)}{describe(model.config).block}.{number}."


def plain(model: nn.Module, first: int, layers: int) -> nn.Module:
    r"""The bare model in which the blocks from number `first` on and the classifier train."""
    own = tuple(block(model, i) for i in range(first, layers))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith((*own, "classifier")))
    return model


@each_family
def test_two_of_three_blocks_train_as_in_the_bare_model(family):
    ours, theirs = TopLayers(2).attach(model_of(family, 3)), plain(model_of(family, 3), 1, 3)
    assert methods.trainable(ours) == methods.trainable(theirs)
    batches, losses = [labelled(family, seed=i, padded=True) for i in range(5)], []
    for model in (ours, theirs):
        torch.manual_seed(1)  # of the dropout
        losses.append(train(model.train(), batches, lr=1e-3))
    torch.testing.assert_close(*map(torch.tensor, losses), atol=1e-5, rtol=0)
    TopLayers(2).merge(ours, undo=False)
    before = model_of(family, 3).state_dict()
    free = {n for n, p in theirs.named_parameters() if p.requires_grad}
    for name, parameter in ours.named_parameters():
        if name not in free:
            assert torch.equal(parameter, before[name]), name
        # No loss depends on a bias of the keys: AdamW makes steps of the rounding errors of its gradient.
        elif not any(part in name for part in ("key.bias", "k_proj.bias", "c_attn.bias")):
            torch.testing.assert_close(parameter, theirs.get_parameter(name), atol=2e-5, rtol=1e-4)


@each_family
def test_nothing_below_is_kept_however_deep_the_model_is(family):
    r"""As many bytes with six blocks as with two, and no more than plain torch keeps."""
    batch = labelled(family)
    shallow, deep = (measure(TopLayers(1).attach(model_of(family, n)), batch).activations for n in (2, 6))
    assert shallow == deep <= measure(plain(model_of(family, 2), 1, 2), batch).activations
    assert measure(model_of(family, 6), batch).activations > 3 * deep


@each_family
def test_the_last_blocks_of_a_model_in_four_bits_train_as_dense_ones(family):
    r"""Against the model whose last block is dense, with the weights that the codes stand for."""
    model, one = quantize_model(model_of(family, 2)), labelled(family)
    before = model(**one).logits
    method = TopLayers(1)
    method.attach(model)
    assert torch.equal(model(**one).logits, before)
    assert body(model) == method.count(model.config)
    dense = quantize_model(model_of(family, 2))
    method.attach(dense)
    method.merge(dense, undo=False)  # at its start: dense layers in the place of the codes
    plain(dense, 1, 2)
    batches = [labelled(family, seed=i) for i in range(3)]
    ours, theirs = train(model, batches), train(dense, batches)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), atol=1e-5, rtol=0)
    method.detach(model)
    assert torch.equal(model(**one).logits, before)


def test_the_published_count():
    gpt2_medium = GPT2Config(n_embd=1024, n_layer=24, n_head=16)
    assert TopLayers().count(gpt2_medium) == counts.top_layers(gpt2_medium, 2) == 25_192_448  # Hu et al., table 3
