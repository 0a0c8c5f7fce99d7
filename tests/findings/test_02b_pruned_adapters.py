r"""What 02b says of its evidence."""

import re
import statistics

import pytest
import torch
from finding import once_beside, printed, read, said, tenths

from coursekit.checks.adapters_train import ASKED, BUDGET, CUT, FRESH, KEEP, NOTHING, REACH, WHOLE, WIDE
from coursekit.experiments import results
from coursekit.methods import HoulsbyAdapter
from coursekit.methods.adapters.bottleneck import INITS

PAGE, EVIDENCE = "02b_pruned_adapters", "data/evidence/README.md"
BEST = "houlsby r=64"
BEFORE = ("sparse-adapter", "snip 95% before", "random 95% before")
STARTS = {"0.02": "wide", "0.001": BEST}


@pytest.fixture(scope="module")
def film() -> results.Results:
    return results.read("adapters", "probe")


def test_cut_before_training(film):
    eighty, snip, random = (film.difference(arm, BEST) for arm in BEFORE)
    assert {found.verdict for found in (eighty, snip, random)} == {"equal for practical purposes"}
    said(PAGE, f"SNIP changes accuracy by {snip.in_points().replace(' (', ' points (')}, equal for practical purposes")
    said(PAGE, "On film sentences, cut before training, 95 % of the weights can go: accuracy is equal for practical "
               "purposes.")  # fmt: skip


def test_a_linear_probe_comes_close(compared):
    ahead = compared["probe"]
    assert ahead.verdict == "better"
    said(PAGE, "equals SNIP's for practical purposes, and a linear probe is only "
               f"{tenths(ahead).removeprefix('better by ')} behind.")  # fmt: skip


def test_few_weights_do(film, compared):
    assert compared["one"].verdict == "equal for practical purposes"
    head = film.parameters("head")
    one, cut = (film.parameters(arm) - head for arm in ("pfeiffer r=1", BEFORE[1]))
    assert (one, round(cut / one)) == (6 * (2 * 384 + 385), 5)
    said(PAGE, "Pfeiffer's adapter of width one, a fifth as large, equals SNIP's for practical purposes")
    said(PAGE, f"and {12 * (64 + 384):,} biases; only the weights are pruned")


def test_the_exercise_leaves_a_thirtieth():
    assert round((12 * 384 * WIDE + 6 * (WIDE + 384)) / KEEP) == 30
    said(PAGE, f"Leave at most keep = {KEEP:,} entries different from 0 (a thirtieth)")
    assert REACH > ASKED and BUDGET < KEEP
    said(
        "02_adapters",
        f"Get {100 * REACH:.0f} % of new film sentences right with at most {BUDGET:,} entries different from 0",
    )


def test_what_the_exercise_says_of_its_adapters():
    biases = 6 * (WIDE + 384)
    said(PAGE, f"All {biases:,} biases kept leave {KEEP - biases:,} weights")
    said(PAGE, f"all biases and the {KEEP - biases:,} largest weights, not trained again | {100 * CUT:.0f} %")
    said(PAGE, f"the wide ones | {100 * WHOLE:.0f} %")
    said(PAGE, f"if more than half of the gain over {100 * NOTHING:.0f} % is still there, there are no points")
    said("02_adapters", f"If more than half of the gain over {100 * NOTHING:.0f} % is left, you get no points")
    said(PAGE, f"keep the last {FRESH} rows back, which trained() has not seen, and aim above {100 * ASKED:.0f} %")


def test_every_rate_beside_the_best_has_its_seeds(film):
    assert not any(once_beside(film, arm) for arm in BEFORE)
    said(PAGE, "each learning rate tuned on validation sentences")


@pytest.fixture(scope="module")
def compared(film) -> dict:
    r"""What the open table compares, as one family."""
    pairs = {"whole": (BEFORE[1], BEST), "random": BEFORE[1:], "probe": (BEFORE[1], "probe")}
    pairs |= {"one": (BEFORE[1], "pfeiffer r=1"), "after": (BEFORE[1], f"{BEST}, magnitude 95% after")}
    pairs |= {"80": (BEFORE[0], f"{BEST}, magnitude 80% after")}
    return film.paired(pairs)


def test_snip_and_chance(compared):
    assert compared["random"].verdict == "no clear difference"
    said(PAGE, "SNIP and chance show no clear difference.")
    said(PAGE, "equal for practical purposes. SNIP and chance show no clear difference.")


def test_cut_after_training(film, compared):
    ahead = tenths(compared["after"])
    assert compared["after"].verdict == "better"
    said(PAGE, f"left alone, 95 % costs far more. The cut before training is {ahead}.")
    said(PAGE, f"the cut before training is {ahead.partition(' (')[0]} than one after it, left alone")
    assert compared["80"].verdict == "no clear difference"
    seeds = [statistics.fmean(own) for own in film.scores(f"{BEST}, magnitude 80% after")]
    assert max(seeds) - min(seeds) > 0.04
    said(PAGE, "At 80 % there is no clear difference: the seeds lie far apart.")


def test_large_sparse(film):
    large = film.difference("large-sparse", "narrow")
    assert large.verdict == "equal for practical purposes"
    value, ends = large.in_points().replace("+", "")[:-1].split(" (")
    said(EVIDENCE, f"A wide adapter pruned before training to the weights of a narrow one (Large-Sparse) is {value} "
                   f"points ahead of it ({ends}): equal for practical purposes")  # fmt: skip


def test_snip_and_size_on_a_trained_adapter(film):
    found = [film.difference(f"{arm}, snip 80% after", f"{arm}, magnitude 80% after") for arm in STARTS.values()]
    assert {one.verdict for one in found} == {"no clear difference"}
    said(PAGE, "in the [stored runs](../data/evidence/README.md) there is no clear difference.")
    wide, own = (str(one).removeprefix("no clear difference (").removesuffix(")") for one in found)
    said(EVIDENCE, "By SNIP instead of magnitude there is no clear difference at 80 % "
                   f"({own} from a start of 0.001, {wide.removesuffix(' points')} from 0.02)")  # fmt: skip


def by_run(film: results.Results, arm: str) -> dict[tuple[float, int], float]:
    r"""The test accuracy of each run at the rates of the search that all had."""
    return {
        (rate, run.cell.seed): statistics.fmean(run.correct)
        for rate, of in film.whole(arm).items() if rate <= 0.003 for run in of
    }  # fmt: skip


def test_what_each_cut_costs(film):
    r"""Of every run that reached 0.80 and then was cut."""
    cost: dict[int, list[float]] = {80: [], 95: []}
    mild, ahead = [], 0
    for arm in STARTS.values():
        reached = {cell: value for cell, value in by_run(film, arm).items() if value >= 0.8}
        for share, costs in cost.items():
            after = by_run(film, f"{arm}, magnitude {share}% after")
            costs += [100 * (value - after[cell]) for cell, value in reached.items()]
        size, snip = (by_run(film, f"{arm}, {score} 80% after") for score in ("magnitude", "snip"))
        mild += [100 * (value - size[cell]) for cell, value in reached.items() if cell[0] == 0.003]
        ahead += sum(size[cell] > snip[cell] for cell in reached)
    runs, words = len(cost[80]), {3: "three"}
    eighty, most = (f"{min(cost[80]):.1f} to {max(cost[80]):.0f}", f"{min(cost[95]):.0f} to {max(cost[95]):.0f}")
    assert 4 < max(mild) < 5 and all(max(film.whole(arm)) == 0.003 for arm in STARTS.values())
    under, spans = f"at 80 %, under 5 in all {words[len(mild)]} at", f", and {most} at 95 %"
    said(
        EVIDENCE,
        f"The {runs} runs that reached 0.80, from both starts, lost {eighty} points {under} a rate of 0.003{spans}",
    )
    said(EVIDENCE, f"over all rates {ahead} of the {runs} keep more by magnitude")


def test_what_gradients_and_moments_hold():
    weights, biases = 12 * 2 * 384 * 64, 12 * (64 + 384)
    kept = weights - round(0.8 * weights) + biases
    said(PAGE, f"a fifth of the {weights:,} weights trains, and all biases: {kept:,} parameters")
    said(PAGE, f"The file holds {4 * kept / 1e6:.2f} MB of values, {weights / 8e6:.2f} MB of bits, and the head.")
    whole, left = (12 * (weights * share + biases) / 1e6 for share in (1, 0.05))  # three of 4 bytes each
    frozen = 4 * results.read("adapters").parameters("full") / 1e6
    said(PAGE, f"Adam's two moments shrink as well, from {whole:.1f} MB to {left:.1f} MB at 95 %")
    said(PAGE, f"Beside them stand {frozen:.0f} MB of frozen model")


def test_the_sizes_of_the_starts(film):
    said(PAGE, 'start both away from 0, with a standard deviation of 0.02 (init="bert")')
    said(PAGE, "Before: cut at its start, with a deviation of 0.02 as in section 3; what stays trains.")
    said(PAGE, "After: trained whole from its best start, 0.001, then cut by size; what stays gets no further step.")
    assert max(STARTS.values(), key=lambda arm: film.accuracy(arm).value) == BEST
    assert HoulsbyAdapter().init == "houlsby"
    down, up = torch.nn.Linear(384, 64), torch.nn.Linear(64, 384)
    for init, size in (("bert", 0.02), ("houlsby", 0.001)):
        torch.manual_seed(0)
        INITS[init](down, up)
        assert up.weight.std().item() == pytest.approx(size, rel=0.15)


def test_the_notebooks_own_run():
    cut = {name: printed(PAGE, rf"{name} +(\d\.\d+) \(") for name in ("size", "chance", "SNIP:")}
    whole = printed(PAGE, r"nothing +(\d\.\d+) \(")[0]
    size, chance, snip = (cut[name][0] for name in ("size", "chance", "SNIP:"))
    said(PAGE, f"the whole adapter has {whole}, a fifth chosen by size {size}, and a fifth drawn")
    said(PAGE, f"and a fifth drawn at random {chance}, no better than one label for all")
    said(PAGE, f"SNIP keeps {snip} where size keeps {size}")
    outputs = [output for cell in read(PAGE).cells for output in cell.get("outputs", [])]
    alts = [output.get("metadata", {}).get("image/png", {}).get("alt", "") for output in outputs]
    (alt,) = (one for one in alts if "of a matrix" in one)
    by_size, by_snip = re.findall(r"(\d+ to \d+ %) of a matrix stay", alt)
    said(PAGE, f"size leaves {by_size} of each; gradients are not, so SNIP leaves {by_snip}")
