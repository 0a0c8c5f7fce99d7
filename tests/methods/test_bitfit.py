r"""BitFit against plain torch, where the same biases of the bare model train; biases that were not there before."""

import json

import pytest
import tiny
import torch
from attached import labelled, nonzero, train
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, LlamaConfig, RobertaConfig

from coursekit import counts, methods
from coursekit.memory.measure import measure
from coursekit.methods import BitFit
from coursekit.qlora import quantize_model
from coursekit.qlora.linear import Linear4bit

WITH_BIASES = ("bert", "roberta", "gpt2", "opt")
each = pytest.mark.parametrize("family", WITH_BIASES)


def plain(model: nn.Module) -> nn.Module:
    r"""The bare model, in which all biases and the classifier train: BitFit as anyone writes it in two lines."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias") or name.startswith("classifier"))
    return model


# plain torch ----------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("bits", [32, 4])
def test_ten_steps_are_those_of_plain_torch_to_the_bit(family, bits):
    def build() -> nn.Module:
        return quantize_model(tiny.model(family)) if bits == 4 else tiny.model(family)

    ours, theirs = BitFit().attach(build()), plain(build())
    batches = [labelled(family, seed=i, padded=True) for i in range(10)]
    losses = []
    for model in (ours, theirs):
        torch.manual_seed(1)  # of the dropout
        losses.append(train(model.train(), batches, lr=1e-2))
    assert losses[0] == losses[1] and len(set(losses[0])) == 10
    BitFit().merge(ours, undo=False)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@each
def test_no_more_is_kept_for_the_backward_pass_than_plain_torch_keeps(family):
    ours, theirs = BitFit().attach(tiny.model(family)), plain(tiny.model(family))
    assert measure(ours, labelled(family)).activations == measure(theirs, labelled(family)).activations > 0


# which biases ---------------------------------------------------------------------------------------------


def test_a_model_without_a_pooler_trains_the_rest():
    model = BitFit().attach(tiny.masked("bert"))
    # The output layer of a masked language model is no task head of the course's: it stays as it is.
    assert methods.trainable(model) == BitFit().count(model.config) - tiny.D_MODEL


# models without biases ------------------------------------------------------------------------------------


def test_added_biases_are_those_of_a_model_that_was_made_with_them():
    r"""transformers builds a Llama with biases where its config asks for them: that one, with biases of 0."""
    model = BitFit(add_biases=True).attach(tiny.model("llama"))
    reference = tiny.model("llama", attention_bias=True, mlp_bias=True)
    bare = tiny.model("llama").state_dict()
    zeros = {n: torch.zeros_like(p) for n, p in reference.named_parameters() if n.endswith("bias")}
    reference.load_state_dict(bare | zeros)
    plain(reference)
    batches = [labelled("llama", seed=i, padded=True) for i in range(5)]
    assert train(model, batches, lr=1e-2) == train(reference, batches, lr=1e-2)
    BitFit(add_biases=True).merge(model)
    merged = model.state_dict()
    assert merged.keys() == reference.state_dict().keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in reference.state_dict().items())
    methods.unmerge(model)
    BitFit().detach(model)
    assert model.state_dict().keys() == bare.keys()
    assert all(layer.bias is None for layer in model.modules() if isinstance(layer, nn.Linear))


def test_with_some_biases_there_those_train_without_adding_any():
    model = BitFit().attach(tiny.model("qwen2"))  # query, key and value have one
    assert methods.trainable(model) == tiny.LAYERS * (tiny.D_MODEL + 2 * tiny.D_MODEL // 2)
    assert BitFit().count(model.config) == methods.trainable(model)


def test_biases_can_be_added_to_layers_in_four_bits():
    model, one = quantize_model(tiny.model("llama")), labelled("llama")
    before = model(**one).logits
    method = BitFit(add_biases=True)
    method.attach(model)
    assert torch.equal(model(**one).logits, before)
    train(model, [one] * 3, lr=1e-2)
    beside = model(**one).logits
    assert not torch.equal(beside, before)
    method.merge(model)
    assert torch.equal(model(**one).logits, beside)
    # A bias is no code: the layers stay in 4 bits.
    assert isinstance(model.model.layers[0].mlp.up_proj, Linear4bit)
    methods.unmerge(model)
    method.detach(model)
    assert torch.equal(model(**one).logits, before) and model.model.layers[0].mlp.up_proj.bias is None


# checkpoints ----------------------------------------------------------------------------------------------


def test_a_checkpoint_has_the_model_s_own_names_and_goes_into_the_bare_model(tmp_path):
    r"""So anyone can use it without the course: the names are those of the state dict, the tensors are whole."""
    model = nonzero(BitFit().attach(tiny.model("bert")))
    BitFit().save(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    own = {key.removeprefix("base_model.model."): value for key, value in tensors.items()}
    bare = tiny.model("bert")
    assert bare.load_state_dict(own, strict=False).unexpected_keys == []
    assert torch.equal(bare(**tiny.batch()).logits, model(**tiny.batch()).logits)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "BITFIT"


# counts and refusals ---------------------------------------------------------------------------------------


def test_published_counts():
    bert = BertConfig()
    assert BitFit().count(bert) == counts.bitfit(bert) == 102_912  # 0.1M in the LoRA paper's table 2
    # b_q and b_m2 are 768 and 3,072 numbers of each of 12 blocks: 0.04 % of BERT, as in the paper's section 4.
    assert BitFit("query-and-second-mlp").count(bert) == 12 * (768 + 3072)
    # A RoBERTa classifier has no pooler, whose bias is among the 102,912 of the body alone.
    assert BitFit().count(RobertaConfig()) == 102_912 - 768
    assert counts.bitfit(LlamaConfig()) == BitFit().count(LlamaConfig()) == 0
    assert BitFit("query-and-second-mlp").count(LlamaConfig()) == 0
    assert BitFit(add_biases=True).count(LlamaConfig()) == 32 * (4 * 4096 + 2 * 11_008 + 4096)
