r"""What 01b says of the stored runs, and of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from finding import printed, said

from coursekit.experiments import forgetting, results

PAGE = "01b_forgetting"
SLOWER, SLOWEST = ("full", 1e-3), ("full", 3e-4)
EWC, L2SP, MULTI = ("EWC", 3000.0), ("L2-SP", 0.01), ("multi-task", 0.5)
SOME, LITTLE, LORA = ("replay", 0.2), ("replay", 0.01), ("LoRA", 16.0)


@pytest.fixture(scope="module")
def runs() -> forgetting.Forgetting:
    return forgetting.read()


def spread(gaps, signed: bool = False) -> str:
    r"""Lowest and highest, as text: of what is lower, how much."""
    if signed:
        return f"{min(gaps):+.1f} to {max(gaps):+.1f}".replace("-", "−")
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
    (page_new, page_old) = kept("before")
    said(
        PAGE,
        f"{steps} steps against 400, and so from {new:.1f} on tweets and {old:.1f} on the old domains, not from "
        f"the {page_new:.1f} and {page_old:.1f} above",
    )
    assert printed(PAGE, r"\nbefore +(\S+) ± \S+ +(\S+) ±") == (f"{new:.1f}", f"{old:.1f}")


def test_none_is_free(runs):
    lost = min(min(runs.apart(way, forgetting.BEFORE)[1]) for way in runs.new if way != forgetting.BEFORE)
    said(PAGE, f"With every remedy and every seed the old domains end at least {lost:.1f} above")


def test_four_remedies_are_ahead_of_a_smaller_learning_rate_on_both_sides(runs):
    said(PAGE, "Four remedies beat a smaller learning rate, on old and new text")
    new, old = ahead(runs, EWC, SLOWER)
    said(PAGE, f"EWC with λ = 3000 has tweets lower by {new} and old domains by {old}")
    new, old = ahead(runs, L2SP, SLOWER)
    said(PAGE, f"L2-SP with α = 0.01 by {new} and {old}")
    new, old = ahead(runs, SOME, SLOWER)
    said(PAGE, f"replay of 20 % by {new} and {old}")
    new, old = ahead(runs, MULTI, SLOWEST)
    said(PAGE, f"Multi-task beats plain fine-tuning at 0.0003 in the same way, by {new} and {old}")


def test_gains_at_equal_learning_are_upper_bounds(runs):
    said(PAGE, "we know only as upper bounds")
    ewc, multi, some, l2sp = (max(-gap for gap in runs.below(way)) for way in (EWC, MULTI, SOME, L2SP))
    said(
        PAGE,
        f"the gain on the old domains is at most {ewc:.1f} for EWC with λ = 3000, {multi:.1f} for multi-task",
    )
    said(PAGE, f"{some:.1f} for replay of 20 % and {l2sp:.1f} for L2-SP (the largest of the seeds)")
    near = 5 * round(runs.point(SLOWER)[1] / 5)
    said(PAGE, f"the gain at equal learning is at most {ewc:.1f}, of a perplexity of about {near}")


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
    said(PAGE, "EWC's curve lies below L2-SP's wherever both were run, with every seed, by " + spread(gaps))
    ahead(runs, EWC, L2SP)
    said(PAGE, "one that knows which weights matter (EWC) was ahead of one that does not (L2-SP)")


def test_little_replay_shows_no_clear_gain(runs):
    gaps = runs.below(LITTLE)
    assert min(gaps) < 0 < max(gaps)
    said(PAGE, f"Replay of 1 % shows no clear gain: {spread(gaps, signed=True)} from the line")


def test_lora_is_behind_a_smaller_learning_rate(runs):
    new, old = ahead(runs, SLOWER, LORA)
    said(
        PAGE, "At 0.01, where it learns most, r = 16 is behind full fine-tuning at 0.001 on old and new text"
    )
    said(PAGE, f"by {new} on tweets and {old} on the old domains")
    assert all(max(gaps) < 0 for gaps in (runs.apart(LORA, forgetting.PLAIN)[1],))
    assert min(runs.apart(LORA, forgetting.PLAIN)[0]) > 0 and min(runs.below(LORA)) > 0
    said(PAGE, "LoRA, with a frozen embedding, did not lie below the curve")


def test_lora_at_its_other_rates(runs):
    found: dict[float, list] = {}
    for run in results.read("forgetting").runs:
        if run.cell.arm == "LoRA 16":
            found.setdefault(run.cell.rate, []).append((run.cell.seed, *forgetting.reached(run)))
    assert {rate: len(seeds) for rate, seeds in found.items()} == {0.001: 1, 0.003: 3, 0.01: 3, 0.03: 3}
    assert min(found, key=lambda rate: min(new for _, new, _ in found[rate])) == 0.01
    gaps = {
        rate: [old - on_curve(runs, "full", seed, new) for seed, new, old in found[rate]]
        for rate in (0.01, 0.03)
    }
    assert 0 < max(gaps[0.01]) < min(gaps[0.03])
    said(PAGE, "At 0.03 it lies farther above the curve")
    assert all(new > runs.new[SLOWEST][seed] and old > runs.old[SLOWEST][seed] for seed, new, old in found[0.003])
    said(PAGE, "at 0.003 it is behind full fine-tuning at 0.0003 on both with every seed")
    ((seed, new, _),) = found[0.001]
    assert new > max(runs.new[way][seed] for way in runs.new if way[0] == "full")
    said(PAGE, "at 0.001 (one seed) it learns less than any rate of full fine-tuning that was run")


def test_what_the_penalties_cost():
    said(PAGE, f"{4 * 7e9 / 1e9:.0f} GB each for seven billion weights in 32 bits")
    assert 128 == 8 * 16
    said(PAGE, "EWC has also read 128 old passages, as many as eight batches")


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
    said(PAGE, f"Replay brings the old domains from {plain:.1f} to {replay:.1f}")
    assert 0.25 < (plain - replay) / (plain - before) < 0.6 and 0 < replay_new - plain_new < 1.5
    said(PAGE, "takes back a good third of the damage")
    said(PAGE, f"for {replay_new - plain_new:.1f} of perplexity on tweets")


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
        kept, ("way back, c = 0.5", "way back, c = 0.75", "LoRA, r = 16", "L2-SP, α = 0.01")
    )
    assert 0.15 < (half[1] - before) / (plain - before) < 0.25
    assert (half[0] - plain_new) / (before_new - plain_new) < 0.15
    said(
        PAGE,
        f"tweets are at {half[0]:.1f} and the old domains at {half[1]:.1f}: a fifth of the damage is left",
    )
    assert most[0] < lora[0] and most[1] < lora[1] and most[0] > l2sp[0] and most[1] > l2sp[1]
    said(
        PAGE,
        f"At c = 0.75 ({most[0]:.1f} and {most[1]:.1f}) plain fine-tuning is ahead of the LoRA run on both",
    )
