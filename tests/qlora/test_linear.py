r"""Linear4bit against the dense layer with the same weights: equal forward, nothing kept, all that torch does to it."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from coursekit.errors import CourseError
from coursekit.qlora import Linear4bit
from coursekit.qlora.linear import PlainLinear4bit
from coursekit.quantization import quantize_blockwise

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16", "fp16"])
each_kind = pytest.mark.parametrize("kind", ["linear", "conv1d"])


def layer(kind: str = "linear", d_in: int = 48, d_out: int = 40, dtype=torch.float32, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Linear(d_in, d_out, bias=bias) if kind == "linear" else Conv1D(d_out, d_in)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.1)
    return made.to(dtype).requires_grad_(False)


def inputs(*shape: int, dtype=torch.float32, grad: bool = True) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_(grad)


# Forward and backward -------------------------------------------------------------------------------------


@each_kind
@each_dtype
@pytest.mark.parametrize("double", [False, True], ids=["fp32 scales", "8-bit scales"])
def test_it_answers_as_the_dense_layer_with_the_unpacked_weights(kind, dtype, double):
    dense = layer(kind, dtype=dtype)
    quantized = Linear4bit.from_linear(dense, double=double)
    with torch.no_grad():
        dense.weight.copy_(quantized.weight.t() if kind == "conv1d" else quantized.weight)
    # A 16-bit product of a transposed view may add up in another order: the same layout for both.
    W = (dense.weight.t() if kind == "conv1d" else dense.weight).contiguous()
    x, twin = inputs(2, 5, 48, dtype=dtype), inputs(2, 5, 48, dtype=dtype)
    y = quantized(x)
    assert y.dtype == dtype and torch.equal(y, F.linear(twin, W, dense.bias))
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    y.backward(g)
    F.linear(twin, W, dense.bias).backward(g)
    torch.testing.assert_close(x.grad, twin.grad, rtol=0, atol={torch.float32: 1e-6}.get(dtype, 4e-2))
    assert quantized.bias.grad is None


@pytest.mark.parametrize("double", [False, True], ids=["fp32 scales", "8-bit scales"])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_plain_module_that_unpacks_and_multiplies_but_keeps_no_weight(bias, double):
    dense = layer(bias=bias)
    q = quantize_blockwise(dense.weight, double=double)
    outputs, gradients, kept = [], [], []
    for module in (Linear4bit(q, dense.bias), PlainLinear4bit(q, dense.bias)):
        x, saved = inputs(2, 5, 48), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t) or t, lambda t: t):
            outputs.append(module(x))
        if isinstance(module, Linear4bit):  # not even the input, which only the gradient of a trained weight would need
            assert set(vars(outputs[-1].grad_fn)) == {"q"} and outputs[-1].grad_fn.q.packed is module.packed
        outputs[-1].square().sum().backward()
        gradients.append(x.grad)
        kept.append(sum(t.nbytes for t in saved))
    assert torch.equal(*outputs)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)
    assert kept == [0, dense.weight.nbytes]


def test_gradients_in_fp64_are_those_of_the_formula():
    q = quantize_blockwise(layer(dtype=torch.float64).weight, double=True)
    quantized = Linear4bit(q, layer(dtype=torch.float64).bias.clone().requires_grad_(True))
    assert quantized.weight.dtype == torch.float64
    assert torch.autograd.gradcheck(
        lambda x, b: torch.func.functional_call(quantized, {"bias": b}, x),
        (inputs(3, 48, dtype=torch.float64), quantized.bias),
    )


# Precision ------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("compute", DTYPES, ids=["in fp32", "in bf16", "in fp16"])
def test_it_computes_in_the_precision_that_is_asked_for_and_answers_in_that_of_the_input(dtype, compute):
    dense = layer(dtype=dtype)
    quantized = Linear4bit.from_linear(dense, compute_dtype=compute)
    x = inputs(4, 48, dtype=dtype)
    y = quantized(x)
    W, b = quantized.weight.to(compute), dense.bias.to(compute)
    assert y.dtype == dtype and torch.equal(y, F.linear(x.to(compute), W, b).to(dtype))
    y.sum().backward()
    assert x.grad.dtype == dtype and x.grad.isfinite().all()


def test_under_autocast_it_does_as_a_dense_layer_does():
    dense = layer()
    quantized = Linear4bit.from_linear(dense)
    with torch.no_grad():
        dense.weight.copy_(quantized.weight)
    x, twin = inputs(4, 48), inputs(4, 48)
    with torch.autocast("cpu", torch.bfloat16):
        y, wanted = quantized(x), dense(twin)
        exact = Linear4bit.from_linear(dense, compute_dtype=torch.float32)(x)
    assert y.dtype == wanted.dtype == torch.bfloat16 and torch.equal(y, wanted)
    assert torch.equal(exact, F.linear(x, Linear4bit.from_linear(dense).weight, dense.bias).to(torch.bfloat16))
    y.float().sum().backward()
    wanted.float().sum().backward()
    assert x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, twin.grad, rtol=0, atol=4e-2)


@pytest.mark.parametrize("to", [torch.bfloat16, torch.float16, torch.float64])
def test_bringing_a_model_to_another_precision_leaves_the_codes_and_their_scales_alone(to):
    model = nn.Sequential(Linear4bit.from_linear(layer()))
    before = {name: b.clone() for name, b in model.named_buffers()}
    model.to(to)
    after = dict(model.named_buffers())
    assert {n: b.dtype for n, b in before.items()} == {n: b.dtype for n, b in after.items()}
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert model[0].bias.dtype == model[0].weight.dtype == to and model(inputs(2, 48, dtype=to)).dtype == to


# There and back -------------------------------------------------------------------------------------------


@each_kind
def test_a_dense_layer_comes_back_as_what_it_was(kind):
    dense = layer(kind)
    quantized = Linear4bit.from_linear(dense)
    back = quantized.dense()
    assert type(back) is type(dense) and back.weight.shape == dense.weight.shape and back.bias is quantized.bias
    x = inputs(3, 48)
    torch.testing.assert_close(back(x), quantized(x), rtol=0, atol=1e-6)
    assert not back.weight.requires_grad and back.weight.is_contiguous()
    W = torch.randn(40, 48)
    torch.testing.assert_close(quantized.dense(W, torch.zeros(40))(x), x @ W.t(), rtol=0, atol=1e-5)


@each_kind
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("code", ["nf4", "fp4", "nf3", "int8"])
def test_copies_and_pickles_are_whole_and_their_own(kind, double, code, tmp_path):
    quantized = Linear4bit.from_linear(layer(kind), code=code, double=double, compute_dtype=torch.bfloat16).eval()
    torch.save(quantized, tmp_path / "layer.pt")
    twins = [copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))]
    twins.append(torch.load(tmp_path / "layer.pt", weights_only=False))
    x, wanted = inputs(2, 48, grad=False), quantized(inputs(2, 48, grad=False))
    for twin in twins:
        assert torch.equal(twin(x), wanted) and not twin.training and repr(twin) == repr(quantized)
        assert {b.data_ptr() for b in twin.buffers()}.isdisjoint({b.data_ptr() for b in quantized.buffers()})
    quantized.packed.zero_()
    assert all(torch.equal(twin(x), wanted) for twin in twins)


@each_kind
@pytest.mark.parametrize("code", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
def test_a_state_dict_goes_into_another_layer(kind, code, double):
    quantized, other = (
        Linear4bit.from_linear(layer(kind), code=c, double=d) for c, d in ((code, double), ("nf4", True))
    )
    with torch.no_grad():
        other.packed.zero_()
        other.bias.zero_()
    state = quantized.state_dict()
    assert {"weight", "bias", "weight.absmax", "weight.quant_map"} <= set(state)
    assert other.load_state_dict(state) == nn.modules.module._IncompatibleKeys([], [])
    assert torch.equal(other.weight, quantized.weight) and torch.equal(other.bias, quantized.bias)
    assert repr(other) == repr(quantized)


def test_a_state_dict_that_does_not_fit_is_refused_and_changes_nothing():
    quantized = Linear4bit.from_linear(layer())
    before = quantized.weight
    wider = Linear4bit.from_linear(layer(d_in=64)).state_dict()
    for state, message in ((wider, "40, 64"), (layer().state_dict(), "quantize_model"), ({}, "weight")):
        with pytest.raises(RuntimeError, match=message):
            quantized.load_state_dict(state)
    assert torch.equal(quantized.weight, before)


@pytest.mark.parametrize("wrong", [nn.Embedding(4, 4), nn.LayerNorm(4), "again"])
def test_what_is_no_dense_linear_layer_is_refused_by_name(wrong):
    one = Linear4bit.from_linear(layer()) if wrong == "again" else wrong
    with pytest.raises(CourseError, match=type(one).__name__):
        Linear4bit.from_linear(one)


def test_codes_of_something_else_than_a_matrix_are_refused():
    with pytest.raises(CourseError, match="no matrix"):
        Linear4bit(quantize_blockwise(torch.randn(2, 3, 4)))


def test_the_layer_itself_and_its_repr():
    dense = layer()
    quantized = Linear4bit.from_linear(dense)
    assert isinstance(quantized, nn.Linear) and quantized.bias is dense.bias
    assert [name for name, _ in quantized.named_parameters()] == ["bias"]
    text = repr(quantized)
    assert "in_features=48, out_features=40" in text and "code=nf4" in text and "double=True" in text
    assert sum(b.nbytes for b in quantized.buffers()) == quantized.quantized.nbytes


@settings(deadline=None, max_examples=60)
@given(
    d_in=st.integers(1, 70), d_out=st.integers(1, 40), rows=st.integers(0, 3), block=st.sampled_from([16, 64, 96]),
    code=st.sampled_from(["nf4", "fp4", "int4", "nf2", "nf3", "int8"]), double=st.booleans(), bias=st.booleans(),
)  # fmt: skip
def test_any_shape_any_code(d_in, d_out, rows, block, code, double, bias):
    dense = layer(d_in=d_in, d_out=d_out, bias=bias)
    quantized = Linear4bit.from_linear(dense, code, block, double)
    x = inputs(rows, d_in)
    y = quantized(x)
    assert y.shape == (rows, d_out) and torch.equal(y, F.linear(x, quantized.weight, dense.bias))
    y.sum().backward()
    torch.testing.assert_close(x.grad, quantized.weight.sum(0).expand(rows, d_in), rtol=0, atol=1e-5)


@pytest.mark.gpu
@each_dtype
def test_on_a_gpu_as_on_the_cpu(dtype):
    quantized = Linear4bit.from_linear(layer(dtype=dtype))
    moved = copy.deepcopy(quantized).cuda()
    assert {b.device.type for b in moved.buffers()} == {"cuda"}
    assert torch.equal(moved.weight.cpu(), quantized.weight)
    x = inputs(4, 48, dtype=dtype, grad=False).cuda().requires_grad_()
    y = moved(x)
    assert torch.equal(y, F.linear(x, moved.weight, moved.bias))
    y.float().sum().backward()
    assert x.grad.isfinite().all()
    assert torch.equal(moved.cpu().weight, quantized.weight)
