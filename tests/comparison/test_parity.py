r"""Beside PEFT: a model laid bare again, and the same model in four bits by bitsandbytes."""

import pytest
import tiny
from attached import labelled, train

from coursekit.comparison import parity
from coursekit.methods import LoRA, PromptTuning, attached
from coursekit.notebook.again import bare
from coursekit.qlora import quantize_model


def test_a_model_is_bare_however_often_one_asks():
    model = tiny.model("llama")
    assert bare(model) is model
    PromptTuning(n=2).attach(model)
    assert not attached(bare(model)) and not attached(bare(model))


def test_bitsandbytes_puts_the_same_model_into_four_bits(tmp_path):
    # Rows of whole blocks: on a CPU bitsandbytes unpacks others wrongly.
    ours, method = tiny.decoder(hidden_size=64, intermediate_size=128), LoRA(r=4, targets="all-linear")
    ours.save_pretrained(tmp_path / "model")
    method.attach(quantize_model(ours))
    method.save(ours, tmp_path / "adapter")
    theirs = parity.loaded_in_four_bits(tmp_path / "model", tmp_path / "adapter", like=ours)
    batches = [labelled("llama")] * 3
    one, other = (train(model.train(), batches, lr=1e-2) for model in (ours, theirs))
    assert one == pytest.approx(other, abs=5e-3) and one[-1] < one[0]
    layer = theirs.get_submodule("base_model.model.model.layers.0.mlp.up_proj").base_layer
    assert type(layer).__module__.startswith("bitsandbytes") and layer.weight.quant_type == "nf4"
