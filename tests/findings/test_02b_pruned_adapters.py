r"""What 02b says of its evidence."""

from __future__ import annotations

import re
import statistics

import pytest
import torch
from finding import ROOT, printed, read, said, tenths

from coursekit.checks.adapters_train import KEEP, WIDE
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.methods import HoulsbyAdapter
from coursekit.methods.adapters.bottleneck import INITS

PAGE = "02b_pruned_adapters"
WHOLE = "houlsby r=64"
BEFORE = ("sparse-adapter", "snip 95% before", "random 95% before")
AFTER = [f"wide, {score} {share}% after" for share in (80, 95) for score in ("magnitude", "snip")]


@pytest.fixture(scope="module")
def film() -> results.Results:
    return results.read("adapters", "probe")


def points(found: Difference) -> str:
    return found.in_points().replace("+0.0 (", "0.0 (").replace(" (", " points (", 1)


def test_cut_before_training(film):
    eighty, snip, random = (film.difference(arm, WHOLE) for arm in BEFORE)
    assert {found.verdict for found in (eighty, snip, random)} == {"equal for practical purposes"}
    assert round(-100 * min(snip.low, random.low)) == 2
    said(PAGE, "95 % of the weights can go, for at most about 2 points. From the better whole adapter (start at 0.001, "
               f"{film.accuracy(WHOLE).value:.3f}) the difference is {points(snip)} by SNIP")  # fmt: skip
    said(PAGE, f"at random; with 80 % gone, by SNIP, {eighty.in_points()}")
    said(PAGE, f"{random.in_points().removeprefix('+')} at random")
    said(PAGE, f"at 95 % there is {film.difference(*BEFORE[1:])}")
    assert not any("random 80% before" in arm for arm in film.arms)
    said(PAGE, "80 % at random was not run")


def test_the_whole_adapter_has_little_to_lose(film):
    ahead, pruned = film.difference(WHOLE, "probe"), film.difference(BEFORE[1], "probe")
    assert 0.6 < 2 / (100 * ahead.value) < 0.7 and pruned.verdict == "better"
    said(
        PAGE,
        f"already has {film.accuracy('probe').value:.3f}: the whole adapter has only "
        f"{tenths(ahead).removeprefix('better by ')} to lose, and 2 could be two thirds of them",
    )
    said(PAGE, f"ahead of the probe, by {tenths(pruned).removeprefix('better by ')}")
    said(PAGE, f"trained to its end, {film.parameters('probe')} numbers")
    said(PAGE, f"the whole adapter has only {round(100 * ahead.value)} points to lose")


def test_biases_alone_were_not_run(film):
    said(PAGE, f"The {12 * (64 + 384):,} biases are never pruned")
    assert not any("bias" in arm for arm in film.arms)
    said(PAGE, "The control, biases and head without any weight, was not run")
    said("02_adapters", "b_{up}$ adds the same vector to every token, and that alone can solve this task")


def test_the_file_of_the_exercise_is_a_sixteenth():
    weights, biases = 12 * 384 * WIDE, 6 * (WIDE + 384)
    whole, left = weights + biases, KEEP
    assert round(whole / left) == 30 and round(4 * whole / (4 * left + weights / 8)) == 16
    said(PAGE, "a thirtieth of the entries; with one bit for each weight the file is a sixteenth")


def test_cut_after_training(film):
    found = film.differences((*BEFORE, *AFTER), against="wide")
    eighty, ninetyfive = (found[f"wide, magnitude {share}% after"] for share in (80, 95))
    assert eighty.family == 7
    said(PAGE, f"From the same start, 80 % cut by size is {eighty} and 95 % {ninetyfive}, near the constant answer")
    said(PAGE, f"80 % cost {round(-100 * eighty.value)} points and 95 % {round(-100 * ninetyfive.value)}")
    constant = film.accuracy("constant").value
    assert all(film.accuracy(arm).value < constant + 0.03 for arm in AFTER if "95%" in arm)
    assert film.accuracy("wide, magnitude 80% after").value > film.accuracy("wide, snip 80% after").value
    said(PAGE, "in section 5 the means stand the other way round")


def test_before_against_after(film):
    best = f"{WHOLE}, magnitude 80% after"
    found = film.paired({
        "80 before": (BEFORE[0], WHOLE), "95 before": (BEFORE[1], WHOLE), "95 random": (BEFORE[2], WHOLE),
        "SNIP, random": BEFORE[1:], "probe": (WHOLE, "probe"), "95, probe": (BEFORE[1], "probe"),
        "size": (BEFORE[0], "wide, magnitude 80% after"), "80": (BEFORE[0], "wide, snip 80% after"),
        "95": (BEFORE[1], "wide, snip 95% after"), "0.001": (best, WHOLE), "large": ("large-sparse", "narrow"),
    })  # fmt: skip
    said(PAGE, f"80 % is {str(found['size']).replace('by', 'than by size after it by')}, 95 % "
               f"{str(found['95']).replace('by', 'than by SNIP after it by')}")  # fmt: skip
    assert {found[pair].verdict for pair in ("80", "0.001")} == {"no clear difference"}
    one, other = (found[pair].in_points().split(" ", 1)[1] for pair in ("80", "0.001"))
    said(PAGE, f"before minus after, both by SNIP {one}, and a cut by size from the start at 0.001 {other}")
    large = found["large"]
    assert large.verdict == "equal for practical purposes" and large.p > 0.05 and large.family == 11
    value, ends = large.in_points().replace("+", "").split(" ", 1)
    said(PAGE, f"+{value} points {ends} over a narrow adapter with as many weights, in the paper's direction, within "
               "our margin of 3 and, adjusted for eleven comparisons, not shown to be more than 0")  # fmt: skip


def test_the_learning_rates_differ(film):
    lost = {
        rate: sum(statistics.fmean(run.correct) < 0.55 for run in runs) for rate, runs in film.whole("wide").items()
    }
    assert lost == {0.0003: 0, 0.001: 1, 0.003: 1} and film.rate("wide") == 0.0003
    said(PAGE, "trains at 0.0003, since at 0.001 and at 0.003 one of three seeds learns nothing")
    assert [film.rate(arm) for arm in BEFORE] == [0.003, 0.01, 0.01]
    said(PAGE, "those cut first at 0.003 and 0.01")


def test_what_is_preliminary(film):
    card = (ROOT / "data/evidence/adapters.md").read_text(encoding="utf-8").splitlines()
    for arm in ("wide", *BEFORE):
        (row,) = (line for line in card if line.startswith(f"| {arm} |"))
        tried = list(film.by_rate(arm))
        at = tried.index(film.rate(arm))
        assert row.endswith("| preliminary |") and {*film.once(arm)} & {*tried[max(at - 1, 0) : at + 2]}
    said(PAGE, "calls 80 % before, both 95 % before and the whole adapter from 0.02 preliminary: a learning rate next "
               "to the best was tried with one seed")  # fmt: skip


def test_what_gradients_and_moments_hold():
    weights, biases = 12 * 2 * 384 * 64, 12 * (64 + 384)
    whole, left = (12 * (weights * share + biases) / 1e6 for share in (1, 0.05))  # three of 4 bytes each
    said("02_adapters", "91 MB of MiniLM")
    said(PAGE, f"from {whole:.1f} MB to {left:.1f} MB at 95 %, beside 91 MB of frozen model")


def test_the_sizes_of_the_starts():
    said(PAGE, "start both away from 0, with a standard deviation of 0.02")
    said(PAGE, "All start with 0.02, as in section 3, but for one whole adapter with Houlsby's own start, 0.001")
    assert HoulsbyAdapter().init == "houlsby"
    down, up = torch.nn.Linear(384, 64), torch.nn.Linear(64, 384)
    for init, size in (("bert", 0.02), ("houlsby", 0.001)):
        torch.manual_seed(0)
        INITS[init](down, up)
        assert up.weight.std().item() == pytest.approx(size, rel=0.15)


def test_the_notebooks_own_run():
    cut = {name: printed(PAGE, rf"{name} +(\d\.\d+) \(") for name in ("size", "chance", "SNIP")}
    whole = printed(PAGE, r"nothing cut .*?(\d\.\d+) \(")[0]
    size, chance, snip = (cut[name][0] for name in ("size", "chance", "SNIP"))
    said(PAGE, f"the whole adapter has {whole}, a fifth of it chosen by size {size} and a fifth drawn at random")
    said(PAGE, f"drawn at random {chance}, as one label for all sentences has")
    said(PAGE, f"SNIP keeps {snip} where size keeps {size}")
    before = printed(PAGE, r"before it +(\d\.\d+) \(")[0]
    said(PAGE, f"cut first, the adapter has {before} and cut afterwards {snip}")
    outputs = [output for cell in read(PAGE).cells for output in cell.get("outputs", [])]
    alts = [output.get("metadata", {}).get("image/png", {}).get("alt", "") for output in outputs]
    (alt,) = (one for one in alts if "of a matrix" in one)
    by_size, by_snip = re.findall(r"(\d+ to \d+ %) of a matrix stay", alt)
    said(PAGE, f"size leaves {by_size} of each matrix; gradients are not, so SNIP leaves {by_snip}")
