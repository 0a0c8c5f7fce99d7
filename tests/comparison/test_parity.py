r"""Parity with PEFT is measured, not asserted: a difference that is there is seen."""

from __future__ import annotations

import pytest
import tiny
import torch

from coursekit.comparison import parity
from coursekit.methods import LlamaAdapter, LoRA, PrefixTuning, PromptTuning, attached
from coursekit.notebook.again import bare
from coursekit.qlora import quantize_model


def test_both_libraries_agree_and_a_difference_is_seen(tmp_path, monkeypatch):
    model, batch = tiny.model("llama").eval(), tiny.batch(2, 6, padded=True)
    each = {"prompt": PromptTuning(n=3), "adapter": LlamaAdapter(n=3, layers=1)}
    found = parity.gaps(model, batch, each, tmp_path)
    assert [gap.method for gap in found] == ["prompt", "adapter"]
    assert all(gap.share < 1e-5 for gap in found)
    loaded = parity.loaded_by_peft

    def moved(*arguments):
        theirs = loaded(*arguments)
        with torch.no_grad():
            theirs.get_base_model().lm_head.weight.mul_(2)
        return theirs

    monkeypatch.setattr(parity, "loaded_by_peft", moved)
    assert all(gap.share > 0.1 for gap in parity.gaps(model, batch, each, tmp_path))


def test_what_is_written_with_a_cache_is_what_is_written_without(tmp_path):
    model = tiny.model("llama").eval()
    torch.manual_seed(1)
    PrefixTuning(n=4).attach(model)
    ids = torch.tensor([[5, 6, 7]])
    assert parity.written(model, ids, 5) == parity.written_without_a_cache(model, ids, 5)


def test_behind_a_prompt_a_cache_that_was_spoiled_is_seen(tmp_path, monkeypatch):
    model, ids = tiny.model("llama").eval(), torch.tensor([[5, 6, 7]])
    each = {"prompt": PromptTuning(n=3), "prefix": PrefixTuning(n=3)}
    parity.gaps(model, tiny.batch(2, 6, padded=True), each, tmp_path)
    found = parity.behind_a_prompt(model, ids, each, tmp_path, tokens=4)
    assert [(name, ours) for name, ours, *_ in found] == [("prompt", True), ("prefix", True)]
    assert not attached(model)
    monkeypatch.setattr(
        parity, "written", lambda model, ids, tokens, cache=True: [-1] * (3 if cache else tokens)
    )
    assert [row[1:] for row in parity.behind_a_prompt(model, ids, each, tmp_path)] == [
        (False, False, False)
    ] * 2


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
    batches = [tiny.batch(2, 6)] * 3
    batches = [batch | {"labels": batch["input_ids"]} for batch in batches]
    one, other = (parity.losses(model.train(), batches, lr=1e-2) for model in (ours, theirs))
    assert one == pytest.approx(other, abs=5e-3) and one[-1] < one[0]
    layer = theirs.get_submodule("base_model.model.model.layers.0.mlp.up_proj").base_layer
    assert type(layer).__module__.startswith("bitsandbytes") and layer.weight.quant_type == "nf4"
