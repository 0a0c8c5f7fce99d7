r"""Rounded weights: what a quantized model computes with, and nothing left behind."""

import pytest
import tiny
import torch

from coursekit.errors import CourseError
from coursekit.qlora import quantize_model
from coursekit.qlora.rounded import rounded
from coursekit.quantization import quantize_blockwise

each_family = pytest.mark.parametrize("family", ["bert", "gpt2", "opt", "llama"])


@each_family
@pytest.mark.parametrize("double", [False, True])
def test_a_rounded_model_answers_as_a_quantized_one(family, double):
    model, one = tiny.model(family), tiny.batch()
    quantized = quantize_model(tiny.model(family), code="nf4", block=32, double=double)
    before = model(**one).logits
    with torch.no_grad(), rounded(model, "nf4", 32, double):
        torch.testing.assert_close(model(**one).logits, quantized(**one).logits, atol=1e-6, rtol=1e-5)
        assert not torch.allclose(model(**one).logits, before, atol=1e-4)
    assert torch.equal(model(**one).logits, before)


def test_the_weights_come_back_to_the_bit_also_after_an_error():
    model = tiny.model("llama")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="stop"), rounded(model, "nf2"):
        raise RuntimeError("stop")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("inf")
    with pytest.raises(CourseError, match="infinities or NaN"), rounded(model, "nf2"):
        pass
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = before["model.layers.1.mlp.up_proj.weight"][0, 0]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_what_is_skipped_stays():
    model = tiny.model("llama")
    layer = model.model.layers[0]
    up, down = (m.weight.detach().clone() for m in (layer.mlp.up_proj, layer.mlp.down_proj))
    with rounded(model, "int4", 16, skip=("up_proj", "lm_head")):
        assert torch.equal(layer.mlp.up_proj.weight, up)
        assert torch.equal(layer.mlp.down_proj.weight, quantize_blockwise(down, "int4", 16).dequantize())


def test_settings_that_make_no_sense():
    model = tiny.model("llama")
    for options, said in (({"code": "nf44"}, "unknown code"), ({"skip": ("upp",)}, "skip names 'upp'")):
        with pytest.raises(CourseError, match=said), rounded(model, **options):
            pass
    with pytest.raises(CourseError, match="nothing to quantize"), rounded(torch.nn.ReLU()):
        pass
