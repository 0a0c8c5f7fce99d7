r"""What 02b says of its evidence."""

import re
import statistics

import pytest
import torch
from finding import printed, read, said, tenths

from coursekit.checks.adapters_train import ASKED, CUT, FRESH, KEEP, NOTHING, WHOLE, WIDE
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
    assert round(-100 * min(snip.low, random.low)) == 2
    said(PAGE, "Cut before training, 95 % of the weights can go for at most about 2 points")


def test_a_linear_probe_comes_close(film):
    ahead, pruned = film.difference(BEST, "probe"), film.difference(BEFORE[1], "probe")
    assert pruned.verdict == "better"
    said(PAGE, f"The whole adapter is only {tenths(ahead).removeprefix('better by ')} ahead of a linear probe")
    said(PAGE, "a linear probe on the mean of the frozen model's tokens; the one that SNIP cut stays ahead")
    said(PAGE, "On the pooler's output, which the head reads, a probe gets "
               f"{film.accuracy('probe-cls').value:.3f}.")  # fmt: skip
    said(PAGE, f"the whole adapter is only {round(100 * ahead.value)} points ahead of a linear probe.")


def test_few_weights_do(film):
    assert film.difference("pfeiffer r=1", BEST).verdict == "equal for practical purposes"
    said(PAGE, "Pfeiffer's adapter of width one equals the whole adapter for practical purposes")
    said(PAGE, f"and {12 * (64 + 384):,} biases; only the weights are pruned")


def test_the_file_of_the_exercise_is_a_sixteenth():
    weights, biases = 12 * 384 * WIDE, 6 * (WIDE + 384)
    whole, left = weights + biases, KEEP
    assert round(whole / left) == 30 and round(4 * whole / (4 * left + weights / 8)) == 16
    said(PAGE, "a thirtieth of the entries; with one bit for each weight the file is a sixteenth")


def test_what_the_exercise_says_of_its_adapters():
    biases = 6 * (WIDE + 384)
    said(PAGE, f"All {biases:,} biases kept leave {KEEP - biases:,} weights")
    said(PAGE, f"all biases and the {KEEP - biases:,} largest weights, not trained again | {100 * CUT:.0f} %")
    said(PAGE, f"the wide ones | {100 * WHOLE:.0f} %")
    said(PAGE, f"no points if more than half of the gain over {100 * NOTHING:.0f} % stays, as in notebook 02")
    said("02_adapters", f"If more than half of the gain over {100 * NOTHING:.0f} % is left, you get no points")
    said(PAGE, f"keep the last {FRESH} rows back, which trained() has not seen, and aim above {100 * ASKED:.0f} %")


def test_every_rate_beside_the_best_has_its_seeds(film):
    assert not any(film.preliminary(arm) for arm in BEFORE)
    said(PAGE, "each learning rate tuned on validation sentences")


@pytest.fixture(scope="module")
def compared(film) -> dict:
    r"""What the open table compares, as one family."""
    pairs = {(share, start): (f"{arm}, magnitude {share}% after", arm)
             for share in (80, 95) for start, arm in STARTS.items()}  # fmt: skip
    pairs |= {"whole": (BEFORE[1], BEST), "random": BEFORE[1:], "probe": (BEFORE[1], "probe")}
    return film.paired(pairs | {"large": ("large-sparse", "narrow")})


def test_snip_and_chance(compared):
    assert compared["random"].verdict == "no clear difference"
    _, ends = compared["random"].in_points().split(" (")
    said(PAGE, f"SNIP and chance show no clear difference ({ends[:-1]} points)")
    said(PAGE, "SNIP and chance are not distinguishable")
    # From its introduction.
    said(PAGE, "The paper, too, finds chance good up to 80 %")


def test_cut_after_training(film, compared):
    eighty, most, loose, all_but = (compared[share, start] for start in ("0.02", "0.001") for share in (80, 95))
    lost = str(eighty).removeprefix("worse by ")
    assert (eighty.verdict, most.verdict) == ("worse",) * 2
    assert (loose.verdict, all_but.verdict) == ("no clear difference",) * 2
    own = zip(film.seeds(BEST), film.seeds(f"{BEST}, magnitude 80% after"), strict=True)
    ends = [round(100 * (whole - cut)) for whole, cut in own]
    said(PAGE, f"From a start of 0.02, cutting 80 % by size cost {lost}; from 0.001 the three seeds lost "
               f"{min(ends)} to {max(ends)}, too unlike for a verdict, as at 95 %")  # fmt: skip
    for arm in STARTS.values():
        whole, *cuts = (film.seeds(one) for one in (arm, *(f"{arm}, magnitude {cut}% after" for cut in (80, 95))))
        assert all(after < before for cut in cuts for after, before in zip(cut, whole, strict=True))
    said(PAGE, "Cut after training and left alone, every adapter lost")


def test_large_sparse(compared):
    large = compared["large"]
    assert large.verdict == "equal for practical purposes" and large.p > 0.05 and large.family == 8
    value = large.in_points().replace("+", "").split(" ", 1)[0]
    said(PAGE, f"Large-Sparse gains little, if anything: {value} points on a narrow adapter with as many weights, "
               "equal for practical purposes, and among eight comparisons perhaps luck")  # fmt: skip
    said(PAGE, "A narrow adapter with as many weights is equal for practical purposes")


def test_snip_and_size_on_a_trained_adapter(film):
    found = [film.difference(f"{arm}, snip 80% after", f"{arm}, magnitude 80% after") for arm in STARTS.values()]
    assert {one.verdict for one in found} == {"no clear difference"}
    wide, own = (str(one).removeprefix("no clear difference (").removesuffix(")") for one in found)
    by = f"{round(100 * found[0].value)} points, {wide.removesuffix(' points')}".replace("-", "−")
    said(PAGE, f"nor can three longer [stored runs](../data/evidence/README.md) (SNIP minus size: {by})")
    said(EVIDENCE, "By SNIP instead of magnitude there is no clear difference at 80 % "
                   f"({own} from a start of 0.001, {wide.removesuffix(' points')} from 0.02)")  # fmt: skip


def test_what_each_cut_costs(film):
    r"""Of every run at the rates of the search that all had that learned, and then was cut."""

    def runs(arm: str) -> dict[tuple[float, int], float]:
        return {
            (rate, run.cell.seed): statistics.fmean(run.correct)
            for rate, of in film.whole(arm).items() if rate <= 0.003 for run in of
        }  # fmt: skip

    cost: dict[int, list[float]] = {80: [], 95: []}
    for arm in STARTS.values():
        learned = {cell: value for cell, value in runs(arm).items() if value > 0.55}
        for share, costs in cost.items():
            after = runs(f"{arm}, magnitude {share}% after")
            costs += [100 * (value - after[cell]) for cell, value in learned.items()]
    assert len(cost[80]) == 17 and 9 < min(cost[95]) < 10
    span = f"{min(cost[80]):.1f} to {max(cost[80]):.0f} points"
    said(EVIDENCE, f"The runs that learned, from both starts, lost {span} at 80 %, and at least 9 at 95 %")
    said(PAGE, f"Over all rates tried, runs that learned lost {span.removesuffix(' points')}, and at least 9 at 95 %")
    said(PAGE, "Cut after training by size and left alone, runs that learned "
               f"lost {span} at 80 %, at least 9 at 95 %")  # fmt: skip


def test_what_gradients_and_moments_hold():
    weights, biases = 12 * 2 * 384 * 64, 12 * (64 + 384)
    whole, left = (12 * (weights * share + biases) / 1e6 for share in (1, 0.05))  # three of 4 bytes each
    frozen = 4 * results.read("adapters").parameters("full") / 1e6
    said(PAGE, f"from {whole:.1f} MB to {left:.1f} MB at 95 %. Beside them stand {frozen:.0f} MB of frozen model")


def test_the_sizes_of_the_starts(film):
    said(PAGE, 'start both away from 0, with a standard deviation of 0.02 (init="bert")')
    said(PAGE, "All start with a deviation of 0.02, as in section 3. At a rate of 0.001 one of three whole adapters "
               "learns nothing; from Houlsby's own deviation, 0.001, all three learn (at 0.003 some fail from "
               "either). So the whole adapter also starts, and is cut, from there: the one to beat")  # fmt: skip
    assert max(STARTS.values(), key=lambda arm: film.accuracy(arm).value) == BEST
    fail = {
        (rate, arm): [statistics.fmean(run.correct) < 0.55 for run in film.whole(arm)[rate]].count(True)
        for rate in (0.001, 0.003) for arm in STARTS.values()
    }  # fmt: skip
    assert (fail[0.001, "wide"], fail[0.001, BEST], fail[0.003, "wide"], fail[0.003, BEST]) == (1, 0, 1, 2)
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
    said(PAGE, f"the whole adapter has {whole}, a fifth chosen by size {size}, a fifth drawn at random")
    said(PAGE, f"drawn at random {chance}, no better than one label for all")
    said(PAGE, f"SNIP keeps {snip} where size keeps {size}")
    outputs = [output for cell in read(PAGE).cells for output in cell.get("outputs", [])]
    alts = [output.get("metadata", {}).get("image/png", {}).get("alt", "") for output in outputs]
    (alt,) = (one for one in alts if "of a matrix" in one)
    by_size, by_snip = re.findall(r"(\d+ to \d+ %) of a matrix stay", alt)
    said(PAGE, f"size leaves {by_size} of each matrix; gradients are not, so SNIP leaves {by_snip}")
