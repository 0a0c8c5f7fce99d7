r"""LLaMA-Adapter against peft with the same weights, against its formula head by head, and what the gate is for."""

import peft
import pytest
import tiny
import torch
from attached import labelled, nonzero, rows_answer_as_alone
from torch import nn

from coursekit import methods
from coursekit.methods import LlamaAdapter
from coursekit.methods.soft_prompts.llama_adapter import PromptedAttention

KINDS = (*tiny.FAMILIES, *tiny.RELATIVES)


def layers(model: nn.Module) -> list[PromptedAttention]:
    return [module for module in model.modules() if isinstance(module, PromptedAttention)]


# peft -----------------------------------------------------------------------------------------------------


def test_peft_is_warned_of_what_it_does_not_know(tmp_path):
    method = LlamaAdapter(n=4, layers=2, gate="tanh")
    method.save(method.attach(tiny.model("llama")), tmp_path)
    with pytest.warns(UserWarning, match="Unexpected keyword arguments .*'gate'"):
        peft.PeftConfig.from_pretrained(tmp_path)


def test_the_output_projection_s_bias_is_added_once():
    r"""peft projects the prompts' answer by itself and so adds the bias twice, with a closed gate too."""
    base = tiny.model("llama", attention_bias=True)
    one = tiny.batch()
    before = base(**one).logits
    assert torch.equal(LlamaAdapter(n=3, layers=2).attach(base)(**one).logits, before)
    config = peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=2, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(tiny.model("llama", attention_bias=True), config)
    assert not torch.allclose(theirs(**one).logits, before, atol=1e-3)


# the formula ----------------------------------------------------------------------------------------------


# the gate -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", ["raw", "tanh"])
@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_the_gradient_reaches_only_the_gate(kind, gate):
    method = LlamaAdapter(n=3, layers=2, gate=gate)
    model = method.attach(tiny.model(kind)).train()
    model(**labelled(kind)).loss.backward()
    for layer in layers(model):
        prompt = layer.prompts["default"]
        assert prompt.gate.grad.abs().sum() > 0
        assert torch.equal(prompt.prompt.grad, torch.zeros_like(prompt.prompt))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    optimizer.step()  # the gate opens ...
    optimizer.zero_grad()
    model(**labelled(kind)).loss.backward()
    assert all(
        layer.prompts["default"].prompt.grad.abs().sum() > 0 for layer in layers(model)
    )  # ... and the prompts learn


# which blocks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "depth, layers_, expected", [(6, None, 4), (3, None, 1), (2, None, 1), (1, None, 1), (6, 5, 5)]
)
def test_all_blocks_but_the_first_two_unless_told(depth, layers_, expected):
    method = LlamaAdapter(n=3, layers=layers_)
    model = method.attach(tiny.model("llama", num_hidden_layers=depth))
    kinds = [type(block.self_attn).__name__ for block in model.model.layers]
    assert kinds == ["LlamaAttention"] * (depth - expected) + ["PromptedAttention"] * expected
    assert methods.trainable(model) == method.count(model.config) == expected * (3 * tiny.D_MODEL + 1)


def test_published_count_of_llama_7b():
    r"""1.2 M (the paper's abstract): 30 blocks, 10 prompts of 4096, and one gate a head as in the official code."""
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008)
    assert LlamaAdapter().count(config) == 30 * (10 * 4096 + 1) == 1_228_830
    assert LlamaAdapter(gate="tanh", per_head=True).count(config) == 30 * (10 * 4096 + 32) == 1_229_760


@pytest.mark.parametrize("kind", KINDS)
def test_the_backward_pass_ends_at_the_lowest_block_with_prompts(kind):
    model = LlamaAdapter(n=3, layers=1).attach(tiny.model(kind)).train()
    (layer,) = layers(model)
    inputs = []
    layer.register_forward_pre_hook(lambda m, a, k: inputs.append(a[0] if a else k["hidden_states"]), with_kwargs=True)
    model(**labelled(kind)).loss.backward()
    assert not inputs[0].requires_grad and layer.prompts["default"].gate.grad is not None


def test_prompts_are_projected_once_for_all_rows():
    model = LlamaAdapter(n=3, layers=1).attach(tiny.model("llama"))
    (layer,) = layers(model)
    shapes = []
    layer.base_layer.k_proj.register_forward_hook(lambda m, a, out: shapes.append(tuple(out.shape)))
    model(**tiny.batch(3, 10))
    assert shapes == [(3, 16), (3, 10, 16)]  # n prompts, then the tokens of three rows
    queries, projected = [], []
    layer.base_layer.q_proj.register_forward_hook(lambda m, a, out: queries.append(1))
    layer.base_layer.o_proj.register_forward_hook(lambda m, a, out: projected.append(1))
    model(**tiny.batch(3, 10))
    assert len(queries) == len(projected) == 1


# rows and generation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_one_batch_have_prompts_gates_and_depths_of_their_own(kind):
    variants = {
        "peft": LlamaAdapter(n=3, layers=2),
        "official": LlamaAdapter(n=3, layers=2, gate="tanh", per_head=True),
        "top": LlamaAdapter(n=5, layers=1, gate="tanh"),
    }
    model = tiny.model(kind)
    for seed, (name, method) in enumerate(variants.items()):
        nonzero(method.attach(model, name), seed)
    names = ["official", None, *variants, "peft"]
    rows_answer_as_alone(model, names, tiny.batch(len(names), padded=True), atol=1e-6, rtol=1e-5)


# bad input ------------------------------------------------------------------------------------------------


def test_an_error_inside_leaves_nothing_remembered():
    model = LlamaAdapter(n=3, layers=2).attach(tiny.model("llama"))
    first, _ = layers(model)  # the error comes inside the first block
    with pytest.raises(RuntimeError):
        model(input_ids=tiny.batch()["input_ids"], attention_mask=torch.zeros(3, 1, 10, 7, dtype=torch.bool))
    assert first.now is None
    assert torch.isfinite(model(**tiny.batch()).logits).all()
