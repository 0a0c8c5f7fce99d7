r"""What 02b says of its evidence."""

from __future__ import annotations

import pytest
from finding import said

from coursekit.checks.adapters_train import KEEP, WIDE
from coursekit.experiments import results
from coursekit.experiments.verdict import MARGIN

PAGE = "02b_pruned_adapters"
WHOLE = "houlsby r=64"


@pytest.fixture(scope="module")
def film() -> results.Results:
    return results.read("adapters")


def test_cut_before_training(film):
    for arm in ("snip 95% before", "random 95% before"):
        assert film.difference(arm, WHOLE).verdict == "equal for practical purposes"
    said(PAGE, "equal to the whole adapter for practical purposes (within 3 points)")
    said(PAGE, f"at 95 % there is {film.difference('snip 95% before', 'random 95% before')}")


def test_the_whole_adapter_has_little_to_lose(film):
    both = results.read("adapters", "probe")
    ahead = both.difference(WHOLE, "probe")
    assert round(ahead.value, 2) == MARGIN
    said(
        PAGE,
        f"already has {both.accuracy('probe').value:.3f}, so the whole adapter, {film.accuracy(WHOLE).value:.3f}, has "
        f"only {str(ahead).removeprefix('better by ')} to lose, about the margin",
    )
    pruned = both.differences(("snip 95% before", "random 95% before"), against="probe").values()
    snip, random = (str(found).removeprefix("better by ") for found in pruned)
    said(PAGE, f"Both pruned ones stay ahead of the probe, by {snip} and {random.replace(' points', '')}")
    said(PAGE, f"trained to its end, {both.parameters('probe')} numbers")
    said(PAGE, f"the {12 * (64 + 384):,} biases are never pruned")
    said(PAGE, f"the whole adapter has only {round(100 * ahead.value)} points to lose")


def test_by_size_80_per_cent_after_training_show_no_clear_loss_and_the_rest_ends_near_chance(film):
    assert film.difference(f"{WHOLE}, magnitude 80% after", WHOLE).verdict == "no clear difference"
    constant = film.accuracy("constant").value
    for score in ("magnitude", "snip", "random"):
        assert film.accuracy(f"{WHOLE}, {score} 95% after").low < constant + 0.03


def test_the_file_of_the_exercise_is_a_sixteenth():
    weights, biases = 12 * 384 * WIDE, 6 * (WIDE + 384)
    whole, left = weights + biases, KEEP
    assert round(whole / left) == 30 and round(4 * whole / (4 * left + weights / 8)) == 16
    said(PAGE, "a thirtieth of the entries; with one bit for each weight the file is a sixteenth")


def test_cut_after_training(film):
    magnitude, random, snip = (f"{WHOLE}, {score} 80% after" for score in ("magnitude", "random", "snip"))
    worse = film.difference(f"{WHOLE}, magnitude 95% after", WHOLE)
    said(PAGE, f"With 95 % cut by size, accuracy is {worse}")
    said(PAGE, f"95 % cost {round(-100 * worse.value)} points")
    said(PAGE, f"that there is {film.difference(magnitude, WHOLE)} from the whole one")
    said(PAGE, f"size is {film.difference(magnitude, random)} than chance")
    said(PAGE, f"Between size and SNIP there is {film.difference(magnitude, snip)}")


def test_large_sparse(film):
    found = film.difference("large-sparse", "narrow")
    equal = str(found).replace("equal", "equal to a narrow adapter with as many weights", 1)
    said(PAGE, f"It is {equal}")


def test_the_weak_rival_that_made_pruning_look_good(film):
    lost = {
        rate: sum((run.validation or 0.0) < 0.55 for run in runs) for rate, runs in film.whole("wide").items()
    }
    assert sorted(rate for rate, seeds in lost.items() if seeds == 1) == [0.001, 0.003]
    assert film.difference("large-sparse", "wide").low > 0
    said(PAGE, "learned nothing with one seed of three at two learning rates")
