r"""What 01b says of the stored runs, and of its own."""

from __future__ import annotations

import math
from contextlib import suppress
from statistics import fmean

import numpy as np
import pytest
from finding import printed, read, said

from coursekit.errors import CourseError
from coursekit.experiments import forgetting, results
from coursekit.methods import OFT, LoRA
from coursekit.training.pretraining import small_decoder

PAGE = "01b_forgetting"
SLOWER, SLOWEST = ("full", 1e-3), ("full", 3e-4)
TUNED, EWC, L2SP, LOOSE = ("EWC", 1000.0), ("EWC", 3000.0), ("L2-SP", 0.01), ("L2-SP", 0.003)
HALF, SOME, FEW, LITTLE = (("replay", share) for share in (0.5, 0.2, 0.05, 0.01))
LORA = ("LoRA", 16.0)


@pytest.fixture(scope="module")
def runs() -> forgetting.Forgetting:
    return forgetting.read()


def spread(gaps) -> str:
    r"""Lowest and highest, as text: of what is lower, how much."""
    low, high = sorted(map(abs, (min(gaps), max(gaps))))
    return f"{low:.1f} to {high:.1f}"


def ahead(runs, one, other) -> list[str]:
    r"""By how much `one` is ahead on tweets and on the old domains; fails where it is not, with every seed."""
    both = runs.apart(one, other)
    assert all(max(gaps) < 0 for gaps in both), (one, other)
    return [spread(gaps) for gaps in both]


def test_where_the_stored_runs_start(runs):
    new, old = runs.point(forgetting.BEFORE)
    (steps,) = {run.more["pretraining"] for run in results.read("forgetting").runs}
    said(PAGE, f"{steps} steps against 400. It starts at {new:.1f} on tweets and {old:.1f} on the old domains")


def test_none_is_free(runs):
    before = runs.point(forgetting.BEFORE)[1]
    least = min(runs.point(way)[1] for way in runs.new if way[0] not in ("before", "full"))
    assert before < least
    said(PAGE, f"the remedies leave the old domains at {least:.1f} or more, from {before:.1f}")
    found: dict[float, list] = {}
    for run in results.read("forgetting").runs:
        if run.cell.arm == "multi-task 0.5":
            found.setdefault(run.cell.rate, []).append(forgetting.reached(run))
    means = {rate: tuple(map(fmean, zip(*seeds, strict=True))) for rate, seeds in found.items()}
    assert all(len(seeds) == 3 for seeds in found.values()) and runs.point(HALF) == pytest.approx(means[0.003])
    assert before < min(old for _, old in means.values())  # at no rate either


def test_three_remedies_are_ahead_of_plain_fine_tuning_on_both_sides(runs):
    assert all(forgetting.SEARCHED[kind] == strength for kind, strength in (TUNED, L2SP, SOME))
    said(PAGE, "Both penalties and replay of 20 % and 50 % beat plain fine-tuning, on old and new text and with every")
    (_, old), (_, loose) = ahead(runs, TUNED, forgetting.PLAIN), ahead(runs, LOOSE, forgetting.PLAIN)
    assert forgetting.chosen(results.read("forgetting").runs)["full"] == forgetting.PLAIN[1]
    said(
        PAGE,
        f"Against 0.003, the best for tweets of the four rates that were run, EWC (λ = 1000) leaves the old domains "
        f"lower by {old} and L2-SP (α = 0.003) by {loose}, at no cost on tweets",
    )
    rates = sorted(rate for kind, rate in runs.new if kind == "full")
    assert len(rates) == 4 and min(rates, key=lambda rate: runs.point(("full", rate))[0]) == 3e-3
    assert not any(1e-3 < rate < 3e-3 for rate in rates)
    said(PAGE, "These are upper bounds: a rate between 0.001 and 0.003 may learn as much and forget less")
    near = round(runs.point(forgetting.PLAIN)[1])
    most = old.split(" to ")[1]
    said(PAGE, f"At no cost on tweets EWC lowers the old domains' perplexity from about {near} by at most {most}")
    ahead(runs, L2SP, SLOWER)
    ahead(runs, SOME, SLOWER)
    ahead(runs, HALF, SLOWEST)
    said(PAGE, "EWC, L2-SP and replay of 20 % and 50 % win on old and new text")


def test_the_table_has_the_differences_of_the_findings(runs):
    pairs = {(TUNED, forgetting.PLAIN), (LOOSE, forgetting.PLAIN), (EWC, SLOWER), (L2SP, SLOWER), (SOME, SLOWER),
             (HALF, SLOWEST), (LITTLE, forgetting.PLAIN), (LORA, SLOWER), (EWC, L2SP)}  # fmt: skip
    assert set(forgetting.COMPARED) == pairs


def test_gains_at_equal_learning_are_upper_bounds(runs):
    gains = {}
    for way in runs.new:
        with suppress(CourseError):  # no rate learns as much
            gains[way] = max(-gap for gap in runs.below(way))
    most = max(gains, key=gains.get)
    free = [("EWC", 300.0), TUNED, LOOSE]
    assert most == EWC and not gains.keys() & set(free)  # of these the table has a dash
    (learned, kept), line = runs.apart(EWC, SLOWER), runs.below(EWC)
    assert max(learned) < 0  # so a curve that falls is higher there than at the rate
    assert all(most < least < 0 for least, most in zip(kept, line, strict=True))
    least, most = -max(kept), -min(line)
    said(PAGE, f"λ = 3000 the gap then lies between the last two columns: {least:.1f} at least, {most:.1f} at most")
    assert all(max(runs.apart(one, way)[0]) < 0 for one in free for way in runs.new if way[0] == "full")
    for seed in range(3):  # convex, as far as three points say
        x, y = np.log(forgetting.curve((runs.new[w][seed], runs.old[w][seed]) for w in runs.new if w[0] == "full")).T
        slopes = np.diff(y) / np.diff(x)
        assert len(slopes) == 2 and slopes[0] < slopes[1] < 0
    said(PAGE, "The points suggest a curve that bends towards the lower left; then our straight lines lie above it")


def on_curve(runs, kind: str, seed: int, new: float) -> float | None:
    r"""Old domains of `kind` where it learns as much as `new`: lines in logarithms; None beyond its ends."""
    points = [(runs.new[way][seed], runs.old[way][seed]) for way in runs.new if way[0] == kind]
    points = [p for p in points if not any(q[0] < p[0] and q[1] < p[1] for q in points)]
    x, y = zip(*sorted(points), strict=True)
    return math.exp(np.interp(math.log(new), np.log(x), np.log(y))) if x[0] <= new <= x[-1] else None


def test_ewc_s_curve_lies_below_that_of_l2sp(runs):
    gaps = []
    for kind, other in (("EWC", "L2-SP"), ("L2-SP", "EWC")):
        for way in runs.new:
            for seed, (new, old) in enumerate(zip(runs.new[way], runs.old[way], strict=True)):
                if way[0] == kind and (there := on_curve(runs, other, seed, new)) is not None:
                    gaps.append((there - old) * (1 if kind == "EWC" else -1))
    assert len(gaps) == 12 and min(gaps) > 0
    said(PAGE, f"EWC's curve lies below L2-SP's wherever both were run, with every seed (by {spread(gaps)})")
    ahead(runs, EWC, L2SP)
    said(PAGE, "λ = 3000 is ahead of α = 0.01 on both without any line")
    said(PAGE, "one that knows which weights matter (EWC) was ahead of one that does not (L2-SP)")


def test_little_replay_shows_no_clear_gain(runs):
    for share in (LITTLE, FEW):
        gaps = runs.below(share)
        assert min(gaps) < 0 < max(gaps)
    few = f"{min(gaps):+.1f} to {max(gaps):+.1f}".replace("-", "−")  # the last: FEW
    said(PAGE, f"Replay of 1 % and 5 % shows no clear gain: the seeds disagree (5 %: {few})")


def test_replay_at_a_third_of_its_rate_lies_below_the_curve_of_l2sp(runs):
    assert forgetting.chosen(results.read("forgetting").runs)["replay"] == 3e-3
    new, old = runs.point(SOME)
    assert forgetting.gap(new, old, runs.curves()["L2-SP"]) > 0, "in the picture, of means"
    slow = [
        (run.cell.arm, run.cell.seed, *forgetting.reached(run))
        for run in results.read("forgetting").runs
        if run.cell.arm == "replay 0.2" and run.cell.rate == 1e-3
    ]
    assert len(slow) == 3
    for _, seed, new, old in slow:
        there = on_curve(runs, "L2-SP", seed, new)
        assert there is not None and old < there
    said(PAGE, "replay of 20 %, drawn above L2-SP's curve, lies below it at a third of its rate, with every seed")


def test_lora_is_behind_a_smaller_learning_rate(runs):
    new, old = ahead(runs, SLOWER, LORA)
    said(
        PAGE,
        "At its best rate, 0.01, r = 16 is behind plain fine-tuning at 0.001 on both, with every seed "
        f"(by {new} and {old})",
    )
    learned, kept = runs.apart(LORA, forgetting.PLAIN)
    assert max(kept) < 0 < min(learned)
    said(PAGE, f"Against 0.003 it learns less and forgets less (by {fmean(learned):.1f} and {-fmean(kept):.1f})")
    said(PAGE, "LoRA, with embedding and output layer frozen, did not lie below the curve")


def test_oft_forgets_more_than_a_smaller_and_a_larger_lora(runs):
    sizes = []
    for method in (LoRA(r=4, alpha=4, targets="all-linear"), OFT(block_size=32, targets="all-linear"),
                   LoRA(r=16, alpha=16, targets="all-linear")):  # fmt: skip
        model = small_decoder(512, context=64, device="cpu")
        method.attach(model)
        sizes.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[1] in {run.parameters for run in results.read("forgetting").runs if run.cell.arm == "OFT 32"}
    kept = [runs.apart(("OFT", 32.0), lora)[1] for lora in (("LoRA", 4.0), LORA)]
    assert min(map(min, kept)) > 0
    small, large = (f"{fmean(gaps):.1f}" for gaps in kept)
    said(PAGE, "forgets more than LoRA with fewer parameters (r = 4) and with more (r = 16), with every seed "
               f"(by {small} and {large})")  # fmt: skip
    chosen = forgetting.chosen(results.read("forgetting").runs)
    assert chosen["OFT"] == chosen["LoRA"] == 1e-2
    said(PAGE, "for LoRA 0.01, and the same for [OFT](")


def test_the_run_has_the_strengths_and_the_rate_of_the_stored_search():
    source = "\n".join(cell.source for cell in read(PAGE).cells)
    assert "held(ones, 0.01)" in source and "held(fisher, 1000)" in source
    assert 'learn(new, lr=1e-2, method=LoRA(r=16, alpha=16, targets="all-linear"))' in source
    assert {kind: forgetting.SEARCHED[kind] for kind in ("L2-SP", "EWC", "LoRA")} == dict([L2SP, TUNED, LORA])
    assert forgetting.chosen(results.read("forgetting").runs)["LoRA"] == 1e-2
    said(PAGE, "The two strengths and LoRA's rate are from section 4's runs")
    assert {kind: forgetting.SEARCHED[kind] for kind in forgetting.SHARES} == {"replay": 0.2, "multi-task": 0.5}
    said(PAGE, "tuned at one of its strengths (replay's at two)")


def test_lora_leaves_both_ends_as_they_are():
    model = small_decoder(512, context=64, device="cpu")
    assert model.num_parameters() == int(printed(PAGE, r"([\d,]+) parameters\n")[0].replace(",", ""))
    ends = {id(p) for p in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    sizes = sum(p.numel() for p in model.parameters() if id(p) in ends)
    assert len(ends) == 2 and not model.config.tie_word_embeddings
    share = round(100 * sizes / model.num_parameters())
    said(PAGE, f"Our LoRA leaves the embedding and the output layer frozen, {share} % of the weights")
    LoRA(r=4, alpha=4, targets="all-linear").attach(model)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(".layers." in name for name in trained), trained


def test_lora_at_its_other_rates_and_ranks(runs):
    found: dict[float, list] = {}
    for run in results.read("forgetting").runs:
        if run.cell.arm == "LoRA 16":
            found.setdefault(run.cell.rate, []).append((run.cell.seed, *forgetting.reached(run)))
    assert {rate: len(seeds) for rate, seeds in found.items()} == {0.001: 1, 0.003: 3, 0.01: 3, 0.03: 3}
    assert min(found, key=lambda rate: min(new for _, new, _ in found[rate])) == 0.01
    ranks = [
        (seed, new, old)
        for way in runs.new if way[0] == "LoRA"
        for seed, (new, old) in enumerate(zip(runs.new[way], runs.old[way], strict=True))
    ]  # fmt: skip
    apart = 0
    for seed, new, old in [*ranks, *(run for rate in found.values() for run in rate)]:
        there = on_curve(runs, "full", seed, new)
        behind = new > runs.new[SLOWEST][seed] and old > runs.old[SLOWEST][seed]
        if there is None and not behind:
            apart += 1
            assert new > max(runs.new[way][seed] for way in runs.new if way[0] == "full"), "it learns less than all"
        assert there is None or old > there
    assert apart == 1, "at 0.001"
    said(PAGE, "LoRA lay below the curve at no rate or rank, as far as the two can be compared")


def test_what_the_penalties_cost():
    copy = 4 * 7e9 / 1e9
    said(PAGE, f"at seven billion weights in 32 bits, {copy:.0f} GB for L2-SP and {2 * copy:.0f} GB for EWC")


# The notebook's own run ------------------------------------------------------------------------------------


def kept(name: str) -> tuple[float, float]:
    r"""(tweets, old domains together) in the run's last table."""
    *_, tweets, olds = printed(PAGE, rf"(?s).*\n{name} +[\d.]+ +[\d.]+ +[\d.]+ +([\d.]+) +([\d.]+)\n")
    return float(tweets), float(olds)


def test_what_plain_fine_tuning_forgets_and_replay_takes_back():
    (before_new, before), (plain_new, plain) = kept("before"), kept("plain fine-tuning")
    replay_new, replay = kept("replay, 20 % old")
    said(PAGE, f"In this run the perplexity of tweets falls from {before_new:.0f} to {plain_new:.0f}")
    said(PAGE, f"the old domains' rises from {before:.1f} to {plain:.1f}")
    _, alone = kept("old text alone")
    assert abs(alone - before) < 0.05 * (plain - before)
    said(PAGE, f"The same 60 steps on old text alone end at {alone:.1f}: the rise is the work of the tweets")
    said(PAGE, f"Replay brings the old domains from {plain:.1f} to {replay:.1f}")
    assert 0.37 < (plain - replay) / (plain - before) < 0.43 and 0 < replay_new - plain_new < 1.5
    said(PAGE, "undoes two fifths of the damage")
    said(PAGE, f"at a cost of {replay_new - plain_new:.1f} of perplexity on tweets")


def test_the_fisher_information_is_told_as_it_is():
    (tenth,) = printed(PAGE, r"a tenth of the weights holds (\d+)%")
    said(PAGE, f"a tenth of the weights holds {tenth} % of the Fisher information")


def test_all_four_keep_more_than_plain_fine_tuning():
    plain_new, plain = kept("plain fine-tuning")
    l2sp, ewc, lora = kept("L2-SP, α = 0.01"), kept("EWC, λ = 1000"), kept("LoRA, r = 16")
    assert all(olds < plain for _, olds in (kept("replay, 20 % old"), l2sp, ewc, lora))
    assert max(l2sp[0], ewc[0]) < plain_new + 0.3
    said(PAGE, f"LoRA learned less and ends at {lora[0]:.1f}")


def test_going_part_of_the_way_back():
    (before_new, before), (plain_new, plain) = kept("before"), kept("plain fine-tuning")
    half, most, lora, l2sp = map(
        kept, ("half way back", "a quarter back", "LoRA, r = 16", "L2-SP, α = 0.01")
    )
    for other in map(kept, ("replay, 20 % old", "EWC, λ = 1000")):
        assert other[0] < most[0] and other[1] > most[1]
    said(PAGE, "Replay and EWC learn more and keep less than it")
    assert 0.15 < (half[1] - before) / (plain - before) < 0.25
    assert (half[0] - plain_new) / (before_new - plain_new) < 0.15
    said(
        PAGE,
        f"tweets are at {half[0]:.1f} and the old domains at {half[1]:.1f}: a fifth of the damage is left",
    )
    assert most[0] < lora[0] and most[1] < lora[1] and most[0] > l2sp[0] and most[1] > l2sp[1]
    said(
        PAGE,
        f"A quarter back ({most[0]:.1f} and {most[1]:.1f}) the model is ahead of the LoRA run on both",
    )
