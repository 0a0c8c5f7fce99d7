r"""State dicts and tensors, ours and bitsandbytes', each read by the other."""

import warnings

import bitsandbytes
import bitsandbytes.functional as functional
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from drawn import random
from safetensors.torch import load_file, save_file

from coursekit import quantization as Q
from coursekit.errors import CourseError
from coursekit.quantization.bnb import from_bitsandbytes, from_state_dict, to_state_dict

each_code = pytest.mark.parametrize("code", ["nf4", "fp4"])
each_double = pytest.mark.parametrize("double", [False, True], ids=["plain", "double"])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])


def layer(W: torch.Tensor, code: str, double: bool) -> Linear4bit:
    r"""bitsandbytes' own layer with weights W, quantized."""
    linear = Linear4bit(*W.shape[::-1], bias=False, quant_type=code, compress_statistics=double)
    linear.weight = Params4bit(W.clone(), requires_grad=False, quant_type=code, compress_statistics=double)
    return linear.to("cpu")


def same_codes(q: Q.Blockwise, state: dict[str, torch.Tensor]) -> Q.Blockwise:
    r"""q with the codes that bitsandbytes gave its scales: see `quantize_8bit` for why they may differ."""
    if isinstance(q.absmax, Q.Double):
        assert (q.absmax.codes != state["weight.absmax"]).float().mean() < 0.02
        q.absmax.codes = state["weight.absmax"]
    return q


@each_dtype
@each_double
@each_code
def test_a_state_dict_is_written_as_bitsandbytes_writes_it(code, double, dtype):
    W = random(96, 128).to(dtype)
    theirs = layer(W, code, double).state_dict()
    ours = to_state_dict(same_codes(Q.quantize_blockwise(W, code, double=double), theirs))
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype and torch.equal(ours[key], value), key


@each_dtype
@each_double
@each_code
def test_its_state_dict_is_read(code, double, dtype, tmp_path):
    W = random(96, 128).to(dtype)
    linear = layer(W, code, double)
    save_file({f"model.{k}": v for k, v in linear.state_dict().items()}, tmp_path / "model.safetensors")
    q = from_state_dict(load_file(tmp_path / "model.safetensors"), "model.weight")
    assert (q.code, q.block, q.shape, q.dtype) == (code, 64, W.shape, dtype)
    assert isinstance(q.absmax, Q.Double) == double
    assert torch.equal(q.dequantize(), functional.dequantize_4bit(linear.weight, linear.weight.quant_state))


@each_dtype
@each_double
@each_code
def test_it_reads_ours(code, double, dtype, tmp_path):
    W = random(96, 128).to(dtype)
    q = Q.quantize_blockwise(W, code, double=double)
    save_file(to_state_dict(q), tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    weight = Params4bit.from_prequantized(
        data=state.pop("weight"), quantized_stats={k.removeprefix("weight."): v for k, v in state.items()},
        requires_grad=False, device="cpu",
    )  # fmt: skip
    assert torch.equal(functional.dequantize_4bit(weight, weight.quant_state), q.dequantize())
    assert torch.equal(from_bitsandbytes(weight, weight.quant_state).dequantize(), q.dequantize())


@each_double
@pytest.mark.parametrize("shape", [(7, 10), (1000,), (2, 3, 64)])
def test_its_tensors_are_read_and_share_memory(shape, double):
    x = random(*shape)
    packed, state = functional.quantize_4bit(x, quant_type="nf4", compress_statistics=double)
    q = from_bitsandbytes(packed, state)
    assert q.packed.data_ptr() == packed.data_ptr()
    assert torch.equal(q.packed, Q.quantize_blockwise(x, double=double).packed)
    assert torch.equal(q.dequantize(), functional.dequantize_4bit(packed, state).reshape(shape))


@pytest.mark.parametrize("storage", [torch.float32, torch.float16, torch.bfloat16])
def test_codes_stored_as_another_type(storage):
    x = random(64, 64)
    packed, state = functional.quantize_4bit(x, quant_type="nf4", quant_storage=storage)
    assert packed.dtype == storage
    assert torch.equal(from_bitsandbytes(packed, state).packed, Q.quantize_blockwise(x).packed)


@pytest.mark.parametrize(("options", "said"), [
    ({"code": "nf3"}, "bitsandbytes has no code=nf3; it has nf4, fp4"),
    ({"block": 48}, "bitsandbytes has no block=48; it has 32, 64,"),
])  # fmt: skip
def test_what_bitsandbytes_cannot_hold(options, said):
    with pytest.raises(CourseError, match=said):
        to_state_dict(Q.quantize_blockwise(random(96), **options))
    with pytest.raises(CourseError, match="bitsandbytes has no dtype=torch.float64"):
        to_state_dict(Q.quantize_blockwise(random(96).double()))


@pytest.mark.parametrize("missing", ["weight", "weight.absmax", "weight.quant_map", "weight.nested_absmax",
                                     "weight.nested_quant_map", "weight.quant_state.bitsandbytes__nf4"])  # fmt: skip
def test_a_state_dict_with_an_entry_missing(missing):
    state = to_state_dict(Q.quantize_blockwise(random(64, 64), double=True))
    del state[missing]
    with pytest.raises(CourseError, match=f"no {missing.replace('.', '[.]')}.* in this state dict"):
        from_state_dict(state)


def test_a_state_dict_that_does_not_fit_together():
    state = to_state_dict(Q.quantize_blockwise(random(64, 64), double=True))
    with pytest.raises(CourseError, match=r"holds 4094 codes and 64 scales, but its shape \(64, 64\)"):
        from_state_dict(state | {"weight": state["weight"][1:]})
    with pytest.raises(CourseError, match="holds 4096 codes and 63 scales"):
        from_state_dict(state | {"weight.absmax": state["weight.absmax"][1:]})
    for table in ("quant_map", "nested_quant_map"):
        with pytest.raises(CourseError, match=f"weight.{table} is another table"):
            from_state_dict(state | {f"weight.{table}": state[f"weight.{table}"] * 0.5})


def test_a_layer_that_was_rearranged_for_inference_is_refused():
    r"""What a CPU with bf16 instructions does to a layer at its first answer in eval mode, done here on any CPU."""
    linear = layer(random(64, 64), "nf4", False)
    packed, state = functional._convert_weight_packed_for_cpu(linear.weight.data, linear.weight.quant_state)
    with pytest.raises(CourseError, match="rearranged these weights"):
        from_bitsandbytes(packed, state)


@pytest.mark.gpu
@each_double
@each_code
def test_on_a_gpu(code, double):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        linear = bitsandbytes.nn.Linear4bit(128, 96, bias=False, quant_type=code, compress_statistics=double).cuda()
    q = from_state_dict(linear.state_dict())
    assert q.packed.is_cuda
    assert torch.equal(q.dequantize(), functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state))
