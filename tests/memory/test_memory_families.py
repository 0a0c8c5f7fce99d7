r"""The bill of the families beyond the five: states to the byte, activations where they are modelled."""

import families
import pytest
from attached import labelled

from coursekit.errors import CourseError
from coursekit.memory import measure, predict
from coursekit.methods import (
    OFT,
    Compacter,
    FreezeAndReconfigure,
    HoulsbyAdapter,
    LlamaAdapter,
    LoRA,
    MAMAdapter,
    PrefixTuning,
    VeRA,
)

EXACT = ("weights", "gradients", "optimizer")
METHODS = {
    "full": None,
    "LoRA": LoRA(r=2),
    "VeRA": VeRA(r=4, targets="all-linear"),
    "OFT": OFT(block_size=2),
    "Houlsby": HoulsbyAdapter(r=4, train_norms=True),
    "Compacter": Compacter(n=2, reduction=8),
    "FAR": FreezeAndReconfigure(nodes=((0, 3, 5),)),
    "LLaMA-Adapter": LlamaAdapter(n=3, layers=1),
    "prefix": PrefixTuning(n=3, hidden=8),
    "MAM": MAMAdapter(n=3, hidden=None, r=4),
}


@pytest.mark.parametrize("kind", families.OTHERS)
def test_states_are_exact(kind):
    batch, tried = labelled(kind, padded=True), 0
    for method in METHODS.values():
        model = families.model(kind)
        try:
            if method is not None:
                method.attach(model)
        except CourseError:  # not defined for this family
            continue
        measured = measure(model, batch)
        predicted = predict(model.config, method, batch=3, seq=10, states_only=True)
        assert {n: getattr(predicted, n) for n in EXACT} == {n: getattr(measured, n) for n in EXACT}
        assert predicted.activations == predicted.kept == 0
        tried += 1
    assert tried >= 5


@pytest.mark.parametrize("kind", ["gemma2", "deberta-v2", "t5"])
def test_activations_that_are_not_modelled_are_no_figure(kind):
    config = families.config(kind)
    with pytest.raises(CourseError, match=r"activations of .* are not modelled: take states_only=True") as error:
        predict(config, batch=2, seq=8)
    assert "\n" not in str(error.value)
    with pytest.raises(CourseError, match="states_only must be"):
        predict(config, batch=2, seq=8, states_only="yes")


#: Wide enough that the small terms that the formulas leave out stay small.
WIDE = dict(hidden_size=96, intermediate_size=256)
MODELLED = {"smollm3": WIDE, "qwen3": WIDE, "electra": WIDE, "distilbert": dict(dim=96, hidden_dim=384)}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("kind", MODELLED)
def test_activations_are_near_a_measured_step(kind, checkpointing):
    batch = labelled(kind, batch_size=3, seq=40, padded=True)
    for name in ("full", "LoRA", "VeRA", "OFT", "Houlsby", *["prefix"] * (kind != "distilbert")):
        model, method = families.model(kind, **MODELLED[kind]), METHODS[name]
        if method is not None:
            method.attach(model)
        measured = measure(model, batch, checkpointing=checkpointing)
        predicted = predict(model.config, method, batch=3, seq=40, checkpointing=checkpointing)
        for part in ("activations", "kept", "peak"):
            assert getattr(predicted, part) == pytest.approx(getattr(measured, part), rel=0.1), (name, part)
