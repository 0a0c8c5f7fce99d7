r"""Where an adapter's parameters lie: every one is counted once, in its own kind of tensor."""

import pytest
import tiny

from coursekit import methods
from coursekit.methods.selective.where import trained_by_kind


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_kinds_hold_all_parameters_of_the_blocks_and_all_that_train(family):
    method = methods.FishMask(keep=0.3, score="random")
    model = method.attach(tiny.model(family))
    kinds = trained_by_kind(model)
    assert sum(size for _, size in kinds.values()) == method.among(model.config)
    assert sum(trained for trained, _ in kinds.values()) == method.count(model.config)
    assert all(0 < trained < size or trained == size == 0 for trained, size in kinds.values())


def test_each_kind_is_its_own():
    biases = trained_by_kind(methods.BitFit().attach(tiny.model("bert")))
    assert {kind for kind, (trained, _) in biases.items() if trained} == {"biases"}
    assert biases["biases"][0] == biases["biases"][1]
    rows = trained_by_kind(methods.SelectRows(targets=("query",), rows=4).attach(tiny.model("bert")))
    assert {kind: trained for kind, (trained, _) in rows.items() if trained} == {
        "attention.self.query": tiny.LAYERS * 4 * tiny.D_MODEL
    }
    norms = trained_by_kind(methods.NormTuning().attach(tiny.model("bert")))
    assert norms["norms"][0] == norms["norms"][1] == tiny.LAYERS * 2 * tiny.D_MODEL
