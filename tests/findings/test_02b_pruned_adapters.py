r"""What 02b says of its evidence."""

from __future__ import annotations

import statistics

import pytest
import torch
from finding import printed, said, tenths

from coursekit.checks.adapters_train import KEEP, WIDE
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.methods import HoulsbyAdapter
from coursekit.methods.adapters.bottleneck import INITS

PAGE = "02b_pruned_adapters"
WHOLE = "houlsby r=64"
AFTER = [f"{WHOLE}, {score} {share}% after" for share in (80, 95) for score in ("magnitude", "snip", "random")]


@pytest.fixture(scope="module")
def film() -> results.Results:
    return results.read("adapters", "probe")


def points(found: Difference) -> str:
    return found.in_points().replace("+0.0 (", "0.0 (").replace(" (", " points (", 1)


def test_cut_before_training(film):
    snip, random = (film.difference(arm, WHOLE) for arm in ("snip 95% before", "random 95% before"))
    assert film.difference("sparse-adapter", WHOLE).verdict == "equal for practical purposes"
    assert {found.verdict for found in (snip, random)} == {"equal for practical purposes"}  # the picture's caption
    assert round(-100 * min(snip.low, random.low)) == 2
    said(PAGE, f"By SNIP the difference from the whole adapter is {points(snip)}")
    said(PAGE, f"at random {random.in_points().removeprefix('+')}")
    said(PAGE, f"at 95 % there is {film.difference('snip 95% before', 'random 95% before')}")


def test_the_whole_adapter_has_little_to_lose(film):
    ahead = film.difference(WHOLE, "probe")
    assert 0.6 < 2 / (100 * ahead.value) < 0.7
    said(
        PAGE,
        f"already has {film.accuracy('probe').value:.3f}, so the whole adapter, {film.accuracy(WHOLE).value:.3f}, has "
        f"only {tenths(ahead).removeprefix('better by ')} to lose, and 2 points could still be two thirds",
    )
    pruned = film.differences(("snip 95% before", "random 95% before"), against="probe").values()
    snip, random = (tenths(found).removeprefix("better by ") for found in pruned)
    said(PAGE, f"Both pruned ones stay ahead of the probe, by {snip} and {random.replace(' points', '')}")
    said(PAGE, f"trained to its end, {film.parameters('probe')} numbers")
    said(PAGE, f"The {12 * (64 + 384):,} biases are never pruned")
    said(PAGE, f"the whole adapter has only {round(100 * ahead.value)} points to lose")


def test_after_training_each_seed_loses_at_80_per_cent_and_the_rest_ends_near_chance(film):
    magnitude = f"{WHOLE}, magnitude 80% after"
    lost = [100 * (whole - cut) for whole, cut in zip(film.seeds(WHOLE), film.seeds(magnitude), strict=True)]
    one, two, three = (round(x) for x in lost)
    said(PAGE, f"At 80 %, by size, each of the three seeds loses, {one}, {two} and {three} points")
    found = film.difference(magnitude, WHOLE)
    assert found.verdict == "no clear difference" and round(-100 * found.value) == 8  # the picture's caption
    ends = str(found).removeprefix("no clear difference (").removesuffix(" points)")
    said(PAGE, f"three seeds are too few for a verdict ({ends})")
    constant = film.accuracy("constant").value
    for score in ("magnitude", "snip", "random"):
        assert film.accuracy(f"{WHOLE}, {score} 95% after").low < constant + 0.03


def test_the_file_of_the_exercise_is_a_sixteenth():
    weights, biases = 12 * 384 * WIDE, 6 * (WIDE + 384)
    whole, left = weights + biases, KEEP
    assert round(whole / left) == 30 and round(4 * whole / (4 * left + weights / 8)) == 16
    said(PAGE, "a thirtieth of the entries; with one bit for each weight the file is a sixteenth")


def test_cut_after_training(film):
    magnitude, snip = (f"{WHOLE}, {score} 80% after" for score in ("magnitude", "snip"))
    worse = film.differences(AFTER, against=WHOLE)[f"{WHOLE}, magnitude 95% after"]
    said(PAGE, f"With 95 % cut by size, accuracy is {worse}, adjusted for six comparisons")
    assert worse.family == 6
    said(PAGE, f"95 % cost {round(-100 * worse.value)} points")
    said(PAGE, f"Between size and SNIP there is {film.difference(magnitude, snip)}")


def test_large_sparse(film):
    found = film.difference("large-sparse", "narrow")
    equal = str(found).replace("equal", "equal to a narrow adapter with as many weights", 1)
    said(PAGE, f"It is {equal}")


def test_the_starts_differ(film):
    lost = {
        arm: {
            rate: sum(statistics.fmean(run.correct) < 0.55 for run in runs) for rate, runs in film.whole(arm).items()
        }
        for arm in ("wide", WHOLE)
    }
    assert lost == {"wide": {0.0003: 0, 0.001: 1, 0.003: 1}, WHOLE: {0.0003: 0, 0.001: 0, 0.003: 2}}
    said(PAGE, "from 0.02 one of three at 0.001 and at 0.003, from 0.001 two of three at 0.003")
    assert film.rate("wide") == 0.0003
    said(PAGE, f"at the rate that all its seeds survive (0.0003), it has {film.accuracy('wide').value:.3f}")
    said(PAGE, f"between the two starts there is {film.difference('wide', WHOLE)}")


def test_the_sizes_of_the_starts():
    said(PAGE, "starts with a standard deviation of 0.02")
    assert HoulsbyAdapter().init == "houlsby"
    down, up = torch.nn.Linear(384, 64), torch.nn.Linear(64, 384)
    for init, size in (("bert", 0.02), ("houlsby", 0.001)):
        torch.manual_seed(0)
        INITS[init](down, up)
        assert up.weight.std().item() == pytest.approx(size, rel=0.15)


def test_the_notebooks_own_run():
    cut = {name: printed(PAGE, rf"80 % cut by {name} .*?(\d\.\d+) \(") for name in ("size", "chance", "SNIP")}
    whole = printed(PAGE, r"nothing cut .*?(\d\.\d+) \(")[0]
    size, chance, snip = (cut[name][0] for name in ("size", "chance", "SNIP"))
    said(PAGE, f"the whole adapter has {whole}, a fifth of it chosen by size {size} and a fifth drawn at random")
    said(PAGE, f"drawn at random {chance}, as one label for all sentences has")
    said(PAGE, f"SNIP keeps {snip} where size keeps {size}")
    before = printed(PAGE, r"before it +(\d\.\d+) \(")[0]
    said(PAGE, f"cut first, the adapter has {before} and cut afterwards {snip}")
    said(PAGE, f"Of fresh weights {torch.erf(torch.tensor(0.5**0.5)):.0%}".replace("%", " %"))
    left = printed(PAGE, r"0.02: (\d+)%")[0]
    said(PAGE, f"lie below 0.02, after training {left} %")
