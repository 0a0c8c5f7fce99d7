r"""UniPELT against the `adapters` library and against its formulas written out."""

import pytest
import tiny
import torch
from attached import body, labelled, nonzero
from stored import Stored
from torch import nn
from transformers import BertConfig

from coursekit import adapterhub, methods
from coursekit.methods import UniPELT
from coursekit.methods.hybrid.gates import Gate, real_tokens

TINY = dict(n=3, hidden=None, r=4, rank=2)


def from_library(padded: bool) -> tuple[Stored, nn.Module]:
    stored = Stored("bert/unipelt")
    model = adapterhub.load(stored.model(), stored.folder)
    for gate in (module for module in model.modules() if isinstance(module, Gate)):
        gate.padded = padded  # the library's are
    return stored, model


def test_answers_are_those_of_the_library_where_padding_counts():
    stored, model = from_library(padded=True)
    stored.assert_same(model, "unipelt", exactly=False)
    _, model = from_library(padded=False)
    with pytest.raises(AssertionError):
        stored.assert_same(model, "unipelt", exactly=False)


def test_without_padding_both_averages_are_the_library_s():
    stored, model = from_library(padded=False)
    _, counted = from_library(padded=True)
    whole = int(stored.tensors["attention_mask"].sum(1).argmax())  # a row as long as the batch
    one = {key: stored.tensors[key][whole : whole + 1] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(model(**one).logits, stored.tensors["unipelt.logits"][whole : whole + 1])
        assert torch.equal(model(**one).logits, counted(**one).logits)


def test_counts_of_the_library():
    assert UniPELT().count(BertConfig()) == 11_083_376
    config = tiny.config("bert")
    for settings in (dict(), TINY, dict(hidden=8, r=5)):
        model = UniPELT(**settings).attach(tiny.model("bert"))
        assert body(model) == UniPELT(**settings).count(config)


# gates ----------------------------------------------------------------------------------------------------


def test_a_gate_is_the_mean_of_sigmoids_over_real_tokens():
    gate, x = nonzero(Gate(5, padded=False)), torch.randn(2, 4, 5)
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    each = torch.sigmoid(x @ gate.weight[0] + gate.bias)
    torch.testing.assert_close(gate(x, None)[:, 0, 0], each.mean(1))
    torch.testing.assert_close(gate(x, real)[:, 0, 0], torch.stack([each[0].mean(), each[1, :2].mean()]))
    exact = Gate(5, padded=False, dtype=torch.float64)
    exact.load_state_dict(gate.state_dict())
    doubled = torch.sigmoid(x.double() @ exact.weight[0] + exact.bias).mean(1)
    torch.testing.assert_close(exact(x.double(), None)[:, 0, 0], doubled, atol=1e-15, rtol=0)
    padded = Gate(5, padded=True)
    padded.load_state_dict(gate.state_dict())
    assert torch.equal(padded(x, real), gate(x, None))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True], ids=["all real", "padding"])
def test_the_real_tokens_are_read_from_the_mask_of_the_attention(implementation, padded):
    model = UniPELT(**TINY).attach(tiny.model("bert", attn_implementation=implementation))
    one = tiny.batch(padded=padded)
    model(**one)
    for module in model.modules():
        if hasattr(module, "seen"):
            real = module.seen.real
            assert (real is None and not padded) or torch.equal(real, one["attention_mask"].bool())


def test_a_mask_for_flash_attention_is_one_of_real_tokens():
    mask = torch.tensor([[1, 1, 0]])
    assert torch.equal(real_tokens(mask, torch.zeros(1, 3, 2)), mask.bool())
    assert real_tokens(None, torch.zeros(1, 3, 2)) is None


def test_every_gate_scales_its_own_part():
    r"""A gate with a bias of -100 is shut. With all of them shut the virtual tokens have keys and values of 0."""
    one = labelled("bert")
    model = nonzero(UniPELT(**TINY).attach(tiny.model("bert")))
    gates = {n: m for n, m in model.named_modules() if isinstance(m, Gate)}
    assert len(gates) == 2 * (1 + 1 + 2)
    before = model(**one).logits
    for name, gate in gates.items():
        kept = gate.bias.data.clone()
        gate.bias.data.fill_(-100)
        assert not torch.allclose(model(**one).logits, before, atol=1e-6), name
        gate.bias.data.copy_(kept)
    for gate in gates.values():
        gate.bias.data.fill_(-100)
    shut = model(**one)
    flat = methods.PrefixTuning(3, shifted=False).attach(tiny.model("bert"))
    with torch.no_grad():
        methods.PrefixTuning(3)._put(flat, "default", torch.zeros(3, 2 * 2 * tiny.D_MODEL))
        flat.classifier.copies["default"].load_state_dict(model.classifier.copies["default"].state_dict())
    torch.testing.assert_close(shut.logits, flat(**one).logits)


def test_gates_start_half_open():
    model = UniPELT(**TINY).attach(tiny.model("bert"))
    found = []
    for module in model.modules():
        if isinstance(module, Gate):
            module.register_forward_hook(lambda m, args, out: found.append(out))
    model(**tiny.batch())
    assert len(found) == 8 and all(((g - 0.5).abs() < 0.1).all() for g in found)


def test_two_passes_before_a_backward_with_checkpointing_keep_their_own_masks():
    r"""Each block looks at its mask again when it is computed again."""
    gradients = []
    for checkpointing in (False, True):
        model = nonzero(UniPELT(**TINY).attach(tiny.model("bert"))).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        loss = model(**labelled("bert", padded=True)).loss + model(**labelled("bert", seed=1)).loss
        loss.backward()
        gradients.append([p.grad for p in model._coursekit.parameters["default"]])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, atol=1e-6, rtol=1e-5)
