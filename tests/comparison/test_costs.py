r"""Costs are those that were measured, with the positions of masks, and noise is noise."""

import re
from dataclasses import replace

import pytest

from coursekit.comparison import costs, from_csv
from coursekit.comparison.candidates import EVERY, NAMES
from coursekit.paths import DATA

MEASURED = costs.read()


#: For decoders alone; and starts, whose table is data/evidence/lora.csv.
UNMEASURED = {"llama-adapter", "pissa", "olora", "eva"}


def test_every_method_for_encoders_has_its_costs_and_its_settings_are_today_s():
    assert set(MEASURED) == set(EVERY) - UNMEASURED
    assert set(NAMES) == set(EVERY) and len(set(NAMES.values())) == len(NAMES)
    for name, row in MEASURED.items():
        written = re.sub("keep_base=False|, join='weights'", "", row.settings)  # settings that there were then
        assert written == EVERY[name].settings, name


def test_twins_cost_what_their_difference_says():
    q, lora, fish, chance = (MEASURED[n] for n in ("qlora", "lora-all-linear", "fish-mask", "random-mask"))
    assert q.trained == lora.trained and q.weights < lora.weights
    assert fish.trained == chance.trained


def test_noise_is_how_far_full_fine_tuning_is_from_itself():
    own = {"full": replace(MEASURED["lora"], method="full", step_ratio=0.97), "a": MEASURED["lora"]}
    assert costs.noise(own) == pytest.approx(0.03) and costs.noise({"a": own["a"]}) == 0
    assert costs.trusted(own) == pytest.approx(0.06)
    assert costs.bills(own)["a"]["activations"] == pytest.approx(MEASURED["lora"].activations / 1e6)


def test_positions_of_masks_are_part_of_the_peak():
    measured = {row.method: row for row in from_csv(DATA / "evidence" / "comparison.csv")}
    more = {name: row.peak - measured[name].peak for name, row in MEASURED.items()}
    assert {name for name, size in more.items() if size} == {"shira", "fish-mask", "random-mask", "sparse-adapter"}
    assert more["shira"] == 8 * 73_728
    sparse = EVERY["sparse-adapter"].method
    assert sparse.count(costs.MINILM) == measured["sparse-adapter"].trained, "the shape is that of the model"
    assert more["sparse-adapter"] == 8 * sparse.kept(costs.MINILM)
