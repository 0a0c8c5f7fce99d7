r"""A task learned by changing few of MiniLM's own numbers: what counts as changed, and what is said of the rest."""

import pytest
import torch

from coursekit.checks import bitfit_train
from coursekit.checks.bitfit_train import KEEP, TRAIN

NORM = "bert.encoder.layer.5.output.LayerNorm.weight"


@pytest.fixture(scope="module")
def posing():
    return TRAIN.posing(b"public")


@pytest.fixture(scope="module")
def own():
    return dict(bitfit_train.load_minilm().named_parameters())


def test_what_is_none_of_minilms_parameters_scores_nothing(posing, own):
    r"""Beside the mistakes that the self-test makes."""
    whole = own["bert.encoder.layer.5.output.dense.weight"].clone()
    cases = {
        "MiniLM has no parameter body.x: names are those of named_parameters()": {"body.x": torch.ones(3)},
        f"{whole.numel():,} numbers differ from MiniLM's own, and {KEEP:,} are allowed": {
            "bert.encoder.layer.5.output.dense.weight": whole * (1 - 1e-3)  # weight decay under a masked gradient
        },
    }
    for message, given in cases.items():
        scored = TRAIN.scored(posing, given)
        assert (scored.share, scored.message) == (0.0, message)


def test_only_what_differs_is_counted_and_the_judges_model_stays_as_it_is(posing, own):
    moved = own["bert.encoder.layer.5.output.dense.weight"].clone()
    moved.view(-1)[:KEEP] += 1.0
    scored = TRAIN.scored(posing, {"bert.encoder.layer.5.output.dense.weight": moved})
    assert scored.measured is not None and "of new sentences are right; 70% are asked" in scored.message
    assert all(torch.equal(p, own[name]) for name, p in bitfit_train.judges_minilm().named_parameters())


def test_the_head_stays_as_it_is_and_may_be_returned_so(posing, own):
    moved = {NORM: own[NORM] + 1.0}
    both = TRAIN.scored(posing, moved | {"classifier.bias": own["classifier.bias"].clone()})
    assert both.measured is not None and both.measured == TRAIN.scored(posing, moved).measured
    lean = own["classifier.bias"] + torch.tensor([100.0, 0.0])
    scored = TRAIN.scored(posing, moved | {"classifier.bias": lean})
    assert (scored.share, scored.measured) == (0.0, None) and scored.message.startswith("the head stays as it is")
