r"""Parity with PEFT is measured, not asserted: a difference that is there is seen."""

from __future__ import annotations

import tiny
import torch

from coursekit.comparison import parity
from coursekit.methods import LlamaAdapter, PrefixTuning, PromptTuning


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
