r"""The lines about costs name who needs most and least, as the file has it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coursekit.comparison import costs, from_csv
from coursekit.comparison.candidates import EVERY
from coursekit.paths import DATA

MEASURED = costs.read()


def test_every_method_for_encoders_has_its_costs_and_its_settings_are_today_s():
    assert set(MEASURED) == set(EVERY) - {"llama-adapter"}
    for name, row in MEASURED.items():
        settings = EVERY[name].settings
        assert row.settings == settings or row.settings == settings.replace(
            "keep_base=True", "keep_base=False"
        ), name


def test_twins_cost_what_their_difference_says():
    q, lora, fish, chance = (MEASURED[n] for n in ("qlora", "lora-all-linear", "fish-mask", "random-mask"))
    assert q.trained == lora.trained and q.weights < lora.weights
    assert fish.trained == chance.trained


def test_lines_say_who_is_first_and_last():
    row = MEASURED["lora"]
    own = {
        "full": replace(row, method="full", gradients=90_000_000, optimizer=180_000_000, activations=70_000_000,
                        weights=91_000_000, peak=400_000_000, step_ratio=0.97),
        "head": replace(row, method="head", peak=1, step_ratio=5.0, weights=1, activations=1),
        "a": replace(row, method="a", gradients=1_000_000, optimizer=2_000_000, activations=60_000_000,
                     weights=91_000_000, peak=200_000_000, step_ratio=1.05, storage_bytes=8000, trained=900, head=100),
        "b": replace(row, method="b", gradients=500_000, optimizer=1_000_000, activations=80_000_000,
                     weights=30_000_000, peak=100_000_000, step_ratio=1.07, storage_bytes=4000, trained=900, head=100),
    }  # fmt: skip
    state, activations, weights, peak, slower, stored = costs.said(own)
    assert state == "gradients and optimizer: full 270 MB, otherwise at most 3 MB (a)"
    assert activations == "activations: 60 MB (a) to 80 MB (b), full 70 MB"
    assert weights == "weights: 30 MB (b) to 91 MB (a), full 91 MB"
    assert peak == "least at its peak, the head aside: b, 100 MB, 4.0 times less than full with 400 MB"
    assert slower.endswith(
        "0.97, one draw of the noise: trust no difference between two methods below 0.06; "
        "slower than full by more than that: b"
    )
    assert stored.endswith("a 8.0, b 4.0")
    assert costs.noise(own) == pytest.approx(0.03) and costs.noise({"a": row}) == 0
    assert costs.trusted(own) == pytest.approx(0.06)
    assert costs.bills(own)["a"]["activations"] == 60


def test_positions_of_masks_are_part_of_the_peak():
    measured = {row.method: row for row in from_csv(DATA / "evidence" / "comparison.csv")}
    more = {name: row.peak - measured[name].peak for name, row in MEASURED.items()}
    assert {name for name, size in more.items() if size} == {
        "shira",
        "fish-mask",
        "random-mask",
        "sparse-adapter",
    }
    assert more["shira"] == 8 * 73_728
    sparse = EVERY["sparse-adapter"].method
    assert sparse.count(costs.MINILM) == measured["sparse-adapter"].trained, "the shape is that of the model"
    assert more["sparse-adapter"] == 8 * sparse.kept(costs.MINILM)


def test_what_folds_is_tried():
    found = costs.folding(MEASURED)
    assert {"head", "full", "lora", "ia3", "bitfit", "shira", "far", "said", "lora-bitfit"} <= set(found)
    assert not {"qlora", "houlsby", "prefix", "prompt", "mam", "unipelt", "compacter"} & set(found)
