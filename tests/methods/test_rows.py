r"""Rows and columns that train: against peft's SHiRA with the same mask, and against plain autograd."""

import copy

import pytest
import tiny
import torch
import torch.nn.functional as F
from attached import labelled, nonzero, train
from peft import ShiraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import FreezeAndReconfigure, SelectColumns, SelectRows
from coursekit.methods.mechanism.modules import AdapterState
from coursekit.methods.selective.part_layer import PartLayer, parts_of
from coursekit.methods.selective.parts import Entries, PartProduct, transposed
from coursekit.methods.selective.rows import Columns, Rows
from coursekit.qlora import quantize_model

BOTH = pytest.mark.parametrize("method", [SelectRows(rows=(3, 8)), SelectColumns(columns=(3, 8))],
                               ids=["rows", "columns"])  # fmt: skip
QUERY_VALUE = {"bert": ["query", "value"], "opt": ["q_proj", "v_proj"]}


def layers(kind: str) -> tuple[nn.Module, torch.Tensor]:
    r"""A layer of 7 inputs and 12 outputs, and inputs for it."""
    torch.manual_seed(0)
    layer = Conv1D(12, 7) if kind == "conv1d" else nn.Linear(7, 12, bias=kind != "no bias")
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.requires_grad_(False), torch.randn(2, 5, 7)


def part_of(name: str, layer: nn.Module) -> Rows | Columns | Entries:
    W, turned = layer.weight, transposed(layer)
    index = {"rows": [1, 4, 11], "columns": [0, 5], "entries": [0, 9, 33, 83]}[name]
    kind = {"rows": Rows, "columns": Columns, "entries": Entries}[name]
    return kind(W, torch.tensor(index), turned)


each_part = pytest.mark.parametrize("part", ["rows", "columns", "entries"])
each_layer = pytest.mark.parametrize("kind", ["linear", "no bias", "conv1d"])


# the operation --------------------------------------------------------------------------------------------


@each_part
@each_layer
def test_gradients_are_right_in_float64(part, kind):
    layer, x = layers(kind)
    layer, x = layer.double(), x.double().requires_grad_()
    own = part_of(part, layer)
    nn.init.normal_(own.values)
    b = None if layer.bias is None else layer.bias.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, values, *b: PartProduct.apply(x, values, b[0] if b else None, layer, own),
        (x, own.values, *([] if b is None else [b])),
    )


@each_part
@each_layer
def test_it_is_the_layer_with_its_weight_replaced(part, kind):
    r"""Against the layer itself, with a dense weight that autograd differentiates whole."""
    layer, x = layers(kind)
    x.requires_grad_()
    own = part_of(part, layer)
    start = PartProduct.apply(x, own.values, layer.bias, layer, own)
    assert torch.equal(start, layer(x))
    nn.init.normal_(own.values)
    twin = copy.deepcopy(layer).requires_grad_(True)
    with torch.no_grad():  # by hand, in W as (out, in)
        W = twin.weight.t() if kind == "conv1d" else twin.weight
        if part == "columns":
            W[:, own.index] = own.values
        elif part == "entries":
            twin.weight.view(-1)[own.index] = own.values
        else:
            W[own.index] = own.values
    g = torch.randn(2, 5, 12)
    found = torch.autograd.grad(PartProduct.apply(x, own.values, layer.bias, layer, own), (x, own.values), g)
    dx, dW = torch.autograd.grad(twin(x), (x, twin.weight), g)
    torch.testing.assert_close(found[0], dx)
    torch.testing.assert_close(found[1], own.taken(dW))


@each_part
def test_autograd_keeps_the_input_and_the_values_and_no_matrix(part):
    layer, x = layers("linear")
    own, kept = part_of(part, layer), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        PartProduct.apply(x.requires_grad_(), own.values, layer.bias, layer, own)
    assert sorted(t.numel() for t in kept) == sorted([x.numel(), own.values.numel()])


def test_values_changed_between_forward_and_backward_are_noticed():
    layer, x = layers("linear")
    own = part_of("rows", layer)
    y = PartProduct.apply(x.requires_grad_(), own.values, layer.bias, layer, own)
    with torch.no_grad():
        own.values.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# peft -----------------------------------------------------------------------------------------------------


def shira(family: str, method: SelectRows | SelectColumns) -> nn.Module:
    r"""peft's SHiRA on the same lines: as many numbers as a LoRA of rank 1 has, two lines of a square matrix."""

    def mask(base_layer, r, **_):
        chosen = torch.zeros_like(base_layer.weight)
        if isinstance(method, SelectRows):
            chosen[list(method.rows)] = 1
        else:
            chosen[:, list(method.columns)] = 1
        return chosen

    config = ShiraConfig(r=1, target_modules=QUERY_VALUE[family])
    config.mask_fn = mask
    return get_peft_model(tiny.model(family).double(), config)


@BOTH
@pytest.mark.parametrize("family", QUERY_VALUE)
def test_it_trains_as_peft_s_shira_with_the_same_mask(family, method):
    r"""SHiRA's numbers are added to the frozen ones, ours take their place: the same path where nothing decays."""
    one = tiny.batch()
    before = tiny.model(family).double()(**one).logits
    ours, theirs = method.attach(tiny.model(family).double()), shira(family, method)
    assert torch.equal(ours(**one).logits, theirs(**one).logits)
    for model in (ours, theirs):
        for name, parameter in model.named_parameters():  # not the heads: peft's is frozen
            parameter.requires_grad_("values" in name or "shira_weight" in name)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
        for seed in range(20):
            model(**labelled(family, seed=seed)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert (ours(**one).logits - before).abs().max() > 5e-3
    torch.testing.assert_close(ours(**one).logits, theirs(**one).logits, atol=1e-7, rtol=1e-6)
    for path, parts in parts_of(ours, "default").items():
        layer, part = theirs.base_model.model.get_submodule(path), parts["weight"]
        W = layer.base_layer.weight + layer.get_delta_weight("default")
        torch.testing.assert_close(part.values, part.taken(W), atol=1e-6, rtol=1e-5)


# the method -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which, rows", [((5, 0), [0, 5]), ([4], [4]), (3, [0, 1, 2]), (0.25, list(range(8))),
                                         (1.0, list(range(32))), (0.001, [0])])  # fmt: skip
def test_rows_are_numbers_or_how_many_or_a_share(which, rows):
    model = SelectRows(rows=which).attach(tiny.model("bert"))
    assert all(p["weight"].index.tolist() == rows for p in parts_of(model, "default").values())
    assert SelectRows(rows=which).count(model.config) == 2 * tiny.LAYERS * len(rows) * tiny.D_MODEL


@each_part
def test_autocast_computes_in_its_precision_and_gives_fp32_gradients(part):
    layer, x = layers("linear")
    model = PartLayer(layer, AdapterState("film"))
    own = part_of(part, layer)
    model.add("film", {"weight": own})
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x.requires_grad_())
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y, F.linear(x, layer.weight, layer.bias), atol=0.05, rtol=0.05)
    y.float().sum().backward()
    assert own.values.grad.dtype == torch.float32 and x.grad.dtype == torch.float32


def test_a_hook_on_the_layer_itself_is_still_called():
    model = SelectRows(rows=2).attach(tiny.model("bert"))
    nonzero(model)
    before, seen = model(**tiny.batch()).logits, []
    path = next(iter(parts_of(model, "default")))
    model.get_submodule(path).unwrapped.register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(model(**tiny.batch()).logits, before) and seen
    model(**labelled("bert")).loss.backward()
    assert parts_of(model, "default")[path]["weight"].values.grad.abs().sum() > 0


def test_rows_of_a_matrix_in_four_bits():
    model, one = quantize_model(tiny.model("llama")), tiny.batch()
    before = model(**one).logits
    method = SelectRows(rows=4)
    method.attach(model)
    assert torch.equal(model(**one).logits, before)
    train(model, [labelled("llama", seed=i) for i in range(3)], lr=1e-2)
    beside = model(**one).logits
    assert not torch.equal(beside, before)
    method.merge(model)
    torch.testing.assert_close(model(**one).logits, beside, atol=1e-5, rtol=1e-4)
    methods.unmerge(model)
    assert torch.equal(model(**one).logits, beside)


# bad input ------------------------------------------------------------------------------------------------


def test_a_batch_of_another_size_is_refused_where_a_layer_gets_all_tokens_in_one_dimension():
    model = FreezeAndReconfigure(nodes=((0, 1),)).attach(tiny.model("opt"))
    for wrong in (1, 2, 4):
        with (
            methods.mixed_batch(model, ["default"] * wrong),
            pytest.raises(CourseError, match=f"given {wrong} .* has 3"),
        ):
            model(**tiny.batch(3))
