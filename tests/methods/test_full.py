r"""Full fine-tuning: everything trains, the whole model is saved, and going back needs a copy."""

from __future__ import annotations

import pytest
import tiny
import torch

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import FullFineTuning, LoRA


def shifted(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    return model


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_everything_trains_and_is_counted(family):
    model = FullFineTuning().attach(tiny.model(family).requires_grad_(False))
    assert all(p.requires_grad for p in model.parameters())
    heads = sum(
        p.numel()
        for head in ("classifier",)
        if hasattr(model, head)
        for p in getattr(model, head).parameters()
    )
    assert methods.trainable(model) - heads == FullFineTuning().count(model.config)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_detach_brings_the_base_back_where_it_was_kept(family):
    model, twin = tiny.model(family), tiny.model(family)
    method = FullFineTuning(keep_base=True)
    shifted(method.attach(model))
    method.detach(model)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True)
    )
    assert methods.attached(model) == {}


def test_without_a_kept_base_there_is_no_way_back():
    model = FullFineTuning().attach(tiny.model("llama"))
    with pytest.raises(
        CourseError, match="overwritten the base weights; attach FullFineTuning.keep_base=True"
    ):
        FullFineTuning().detach(model)
    with pytest.raises(CourseError, match="changes the base itself"):
        FullFineTuning().attach(model, "other")
    with pytest.raises(CourseError, match="nothing to merge"):
        FullFineTuning().merge(model)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_save_and_load_round_trip(family, tmp_path):
    model = shifted(FullFineTuning().attach(tiny.model(family)))
    FullFineTuning().save(model, tmp_path)
    again = FullFineTuning().load(tiny.model(family), tmp_path)
    assert torch.equal(again(**tiny.batch()).logits, model(**tiny.batch()).logits)


def test_checkpoints_that_do_not_fit(tmp_path):
    with pytest.raises(CourseError, match="no whole model"):
        FullFineTuning().load(tiny.model("llama"), tmp_path)
    FullFineTuning().save(FullFineTuning().attach(tiny.model("opt")), tmp_path / "opt")
    with pytest.raises(CourseError, match="other shapes"):
        FullFineTuning().load(tiny.model("llama"), tmp_path / "opt")
    LoRA().save(LoRA().attach(tiny.model("llama")), tmp_path / "lora")
    with pytest.raises(CourseError, match="adapters are loaded by their own method"):
        FullFineTuning().load(tiny.model("llama"), tmp_path / "lora")
