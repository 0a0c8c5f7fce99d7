r"""Where each method acts is read off a model; gates are read, and answer with whatever function is put there."""

import pytest
import tiny
import torch

from coursekit import methods
from coursekit.methods.hybrid import places, readings
from coursekit.methods.hybrid.gates import Gate

WHERE = {
    methods.PromptTuning(n=3): {"before\nthe text": "puts tokens before"},
    methods.PrefixTuning(n=3): {"before keys\nand values": "puts tokens before"},
    methods.LoRA(r=2): dict.fromkeys(("query", "value"), "adds beside"),
    methods.IA3(): dict.fromkeys(("key", "value", "FFN,\n2nd matrix"), "multiplies"),
    methods.BitFit(): dict.fromkeys(
        ("query", "key", "value", "attention's\noutput", "norms", "FFN,\n1st matrix", "FFN,\n2nd matrix"),
        "trains what is there",
    ),
    methods.HoulsbyAdapter(r=2): dict.fromkeys(("after the\nattention", "around\nthe FFN"), "adds behind"),
    methods.ParallelAdapter(r=2): {"around\nthe FFN": "adds beside"},
    methods.MAMAdapter(n=3, hidden=None, r=2): {
        "before keys\nand values": "puts tokens before", "around\nthe FFN": "adds beside",
    },
    methods.UniPELT(n=3, hidden=None, r=2, rank=2): {
        "before keys\nand values": "puts tokens before", "query": "adds beside", "value": "adds beside",
        "around\nthe FFN": "adds behind",
    },
    methods.Compacter(r=4): dict.fromkeys(("after the\nattention", "around\nthe FFN"), "adds behind"),
}  # fmt: skip


@pytest.mark.parametrize("method", WHERE, ids=lambda method: type(method).__name__)
def test_each_method_acts_where_its_paper_says_and_comes_off_again(method):
    model = tiny.encoder("bert")
    assert places.places(model, method) == WHERE[method]
    assert not methods.attached(model)
    assert set(WHERE[method]) <= set(places.PLACES.values())


def unipelt():
    torch.manual_seed(0)
    return methods.UniPELT(n=3, hidden=None, r=2, rank=2).attach(tiny.encoder("bert").eval())


def test_gates_are_read_for_each_kind_layer_and_sentence():
    model = unipelt()
    batches = [{"input_ids": torch.tensor([[2, 3, 4], [5, 6, 7]])}, {"input_ids": torch.tensor([[8, 9]])}]
    found = readings.read(model, batches)
    layers = model.config.num_hidden_layers
    assert {kind: tuple(g.shape) for kind, g in found.items()} == dict.fromkeys(readings.KINDS, (layers, 3))
    for gate in (m for m in model.modules() if isinstance(m, Gate)):
        torch.nn.init.zeros_(gate.weight)
        torch.nn.init.constant_(gate.bias, 2.0)
    assert all(torch.allclose(g, torch.tensor(2.0).sigmoid()) for g in readings.read(model, batches).values())
    assert not any(m._forward_hooks for m in model.modules() if isinstance(m, Gate))


def test_another_function_in_the_place_of_the_gate_is_asked_with_the_mask_and_trains():
    model, seen = unipelt(), []
    rows = {"input_ids": torch.tensor([[2, 3, 4], [5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    before = model(**rows).logits

    def rule(x, w, b, mask):
        seen.append(mask)
        return ((x @ w + b).sigmoid() * mask).sum(1) / mask.sum(1)

    assert readings.use(model, rule) == 4 * model.config.num_hidden_layers
    after = model(**rows).logits
    torch.testing.assert_close(after, before)
    assert all(torch.equal(mask, rows["attention_mask"].to(mask.dtype)) for mask in seen)
    readings.use(model, lambda x, w, b, mask: (x @ w + b).sigmoid().mean(1) + 1)
    assert not torch.allclose(model(**rows).logits, before)
    model(**rows).logits.sum().backward()
    # LoRA's B begins at 0, so that at first its gates on query and value have nothing to scale.
    learns = [bool(m.weight.grad.any()) for m in model.modules() if isinstance(m, Gate)]
    assert sum(learns) == 2 * model.config.num_hidden_layers
