r"""What 01b says of the stored runs, and of its own."""

import math
from contextlib import suppress

import numpy as np
import pytest
from finding import printed, read, said

from coursekit.errors import CourseError
from coursekit.experiments import forgetting, results
from coursekit.methods import LoRA
from coursekit.training.pretraining import small_decoder

PAGE = "01b_forgetting"
SLOWER, SLOWEST = ("full", 1e-3), ("full", 3e-4)
TUNED, EWC = ("EWC", 1000.0), ("EWC", 3000.0)
L2SP = ("L2-SP", 0.01)
HALF, SOME = ("replay", 0.5), ("replay", 0.2)
LORA, BACK = ("LoRA", 16.0), ("WiSE-FT", 0.9)


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


def test_how_long_the_stored_runs_are(runs):
    (steps,) = {run.more["pretraining"] for run in results.read("forgetting").runs}
    assert len(runs.new[forgetting.PLAIN]) == 3
    said(PAGE, f"have three seeds and are longer: {steps} steps of pretraining, 100 of each remedy.")


def test_a_tenth_of_the_way_back_is_nearly_free(runs):
    (learned, kept), full = runs.apart(BACK, forgetting.PLAIN), runs.below(BACK)
    assert 0 < min(learned) <= max(learned) < 0.1 and max(kept + full) < 0 and len(full) == 3
    said(PAGE, "a tenth back ($c=0.9$) costs less than 0.1 on tweets")


def test_going_back_is_the_harder_rival(runs):
    gaps = []
    for way in runs.new:
        if way[0] == "WiSE-FT":
            with suppress(CourseError):  # no rate learns as little
                gaps += runs.below(way)
    assert len(gaps) == 3 * 4 and max(gaps) < 0
    said(PAGE, "WiSE-FT is the harder rival")
    said(PAGE, "its curve is the second rival")


def test_ewc_lies_below_both_curves(runs):
    full, back = runs.below(EWC), runs.below(EWC, rival="WiSE-FT")
    assert len(full) == len(back) == 3 and max(full) < max(back) < 0
    said(PAGE, f"EWC (λ = 3000) lies {spread(full)} below plain fine-tuning's curve and {spread(back)} below WiSE-FT's")
    half = [gap for rival in ("full", "WiSE-FT") for gap in runs.below(HALF, rival=rival)]
    equal = [gap for rival in ("full", "WiSE-FT") for gap in runs.below(("L2-SP", 0.01), rival=rival)]
    assert len(half) == len(equal) == 6 and max(half) < 0 and max(equal) < 0
    lora = [gap for way in runs.new if way[0] == "LoRA" for gap in runs.below(way, rival="WiSE-FT")]
    assert len(lora) == 9 and min(lora) > 0, "the other rival: test_lora_at_its_other_rates_and_ranks"
    chosen = forgetting.chosen(results.read("forgetting").runs)
    assert {chosen[kind] for kind in ("EWC", "multi-task", "L2-SP")} == {0.003}, "half old text is multi-task's"
    assert chosen["LoRA"] == 0.01
    said(PAGE, "EWC (λ = 3000), replay of half old text and L2-SP (α = 0.01), at a rate of 0.003, lay below both "
               "rivals' curves; LoRA, at 0.01, lay above both")  # fmt: skip


def test_at_a_higher_rate_ewc_has_no_lead(runs):
    found = [forgetting.reached(run) for run in sorted(results.read("forgetting").runs, key=lambda run: run.cell.seed)
             if (run.cell.arm, run.cell.rate) == ("EWC 1000", 0.01)]  # fmt: skip
    full, back = (
        [old - on_curve(runs, rival, seed, new) for seed, (new, old) in enumerate(found)]
        for rival in ("full", "WiSE-FT")
    )
    assert len(found) == 3 and min(full) < 0 < max(full) and min(back) > 0
    assert all(old > lower for (_, old), lower in zip(found, runs.old[TUNED], strict=True)), "than at 0.003"
    said(PAGE, "At a rate of 0.01 EWC (λ = 1000) has no such lead")


def test_which_springs_are_ahead(runs):
    strengths = [strength for kind, strength in runs.new if kind == "L2-SP"]
    for firm, equal in zip((1000.0, 3000.0, 10000.0), (0.003, 0.01, 0.03), strict=True):
        ahead(runs, ("EWC", firm), ("L2-SP", equal))
    assert sorted(strengths) == [0.003, 0.01, 0.03, 0.1]
    said(PAGE, "Springs by importance beat equal springs. At three of its four strengths L2-SP is behind an EWC run on "
               "both counts, with every seed")  # fmt: skip
    below = [gap for rival in ("full", "WiSE-FT") for gap in runs.below(L2SP, rival=rival)]
    assert len(below) == 6 and max(below) < 0


def test_the_caption_of_the_picture(runs):
    r"""Lines in logarithms, of the seeds' means; beyond an end of a curve there is nothing to compare."""
    curves = runs.curves()
    assert all(forgetting.gap(*p, curves["EWC"]) > 0 for p in curves["L2-SP"][:2])
    assert max(forgetting.gap(*p, curves["L2-SP"]) for p in curves["EWC"][2:]) < 0
    assert all(forgetting.gap(*p, curves["full"]) > 0 for p in curves["LoRA"])


def test_the_table_has_the_gaps_of_the_findings(runs):
    assert {*forgetting.COMPARED} == {BACK, EWC, L2SP, HALF, LORA}
    assert forgetting.RIVALS == ("full", "WiSE-FT")
    for name, *gaps in runs.against(forgetting.COMPARED).rows:
        assert "–" not in gaps and "learns more" not in gaps
        printed(PAGE, rf"({name} +{' +'.join(gap.replace('+', '[+]') for gap in gaps if gap)})")


def on_curve(runs, kind: str, seed: int, new: float) -> float | None:
    r"""Old domains of `kind` where it learns as much as `new`: lines in logarithms; None beyond its ends."""
    points = [(runs.new[way][seed], runs.old[way][seed]) for way in runs.new if way[0] == kind]
    points = [p for p in points if not any(q[0] < p[0] and q[1] < p[1] for q in points)]
    x, y = zip(*sorted(points), strict=True)
    return math.exp(np.interp(math.log(new), np.log(x), np.log(y))) if x[0] <= new <= x[-1] else None


def test_each_rate_is_the_one_for_tweets(runs):
    chosen = forgetting.chosen(results.read("forgetting").runs)
    assert {chosen[kind] for kind in ("full", "L2-SP", "EWC", "replay", "multi-task")} == {3e-3}
    assert chosen["LoRA"] == 1e-2
    said(PAGE, "tuned for tweets alone: 0.003, for LoRA 0.01. WiSE-FT goes back from plain fine-tuning at 0.003")


def test_a_rate_that_is_too_high(runs):
    new, old = runs.point(("full", 1e-2))
    assert any(x < new and y < old for x, y in runs.curves()["full"])
    said(PAGE, f"learns less and forgets more than another (here 0.01: {new:.1f} and {old:.1f})")


def test_lora_is_behind_a_smaller_learning_rate(runs):
    ahead(runs, SLOWER, LORA)
    said(PAGE, f"LoRA (r = 16) forgets {spread(runs.below(LORA))} more than plain fine-tuning that learned as much")
    layers = [("linear layers", rate) for rate in (1e-3, 3e-3)]  # LoRA learns more than with the first alone
    for seed, new in enumerate(runs.new[LORA]):
        assert runs.new[layers[1]][seed] < new < runs.new[layers[0]][seed]
    assert min(gap for way in layers for gap in runs.below(way)) > 0
    assert min(runs.below(LORA, rival="linear layers")) > 0
    said(PAGE, "Part of that is where it trains: training all weights of the same layers (linear layers in the folded "
               "table) forgets less than LoRA and more than plain fine-tuning.")  # fmt: skip


def test_the_run_has_the_strengths_and_the_rate_of_the_stored_search():
    source = "\n".join(cell.source for cell in read(PAGE).cells)
    assert "held(ones, 0.01)" in source and "held(fisher, 1000)" in source
    assert 'learn(new, lr=1e-2, method=LoRA(r=16, alpha=16, targets="all-linear"))' in source
    assert {kind: forgetting.SEARCHED[kind] for kind in ("L2-SP", "EWC", "LoRA")} == dict([L2SP, TUNED, LORA])
    assert forgetting.chosen(results.read("forgetting").runs)["LoRA"] == 1e-2


def test_lora_leaves_both_ends_as_they_are():
    model = small_decoder(512, context=64, device="cpu")
    assert model.num_parameters() == int(printed(PAGE, r"([\d,]+) parameters\n")[0].replace(",", ""))
    ends = {id(p) for p in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    assert len(ends) == 2 and not model.config.tie_word_embeddings
    said(PAGE, "two thin matrices beside each linear layer of the blocks")
    LoRA(r=4, alpha=4, targets="all-linear").attach(model)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(".layers." in name and "norm" not in name for name in trained), trained


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
    said(PAGE, "LoRA, at 0.01, lay above both")


# The notebook's own run ------------------------------------------------------------------------------------


def kept(name: str) -> tuple[float, float]:
    r"""(tweets, old domains together) in the run's last table."""
    tweets, olds = printed(PAGE, rf"(?s).*\n{name} +([\d.]+) +([\d.]+)\n")
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
    said(PAGE, f"No: in this run a tenth of the weights holds {tenth} % of the Fisher information")


def test_all_four_keep_more_than_plain_fine_tuning():
    plain_new, plain = kept("plain fine-tuning")
    l2sp, ewc, lora = kept("L2-SP, α = 0.01"), kept("EWC, λ = 1000"), kept("LoRA, r = 16")
    assert all(olds < plain for _, olds in (kept("replay, 20 % old"), l2sp, ewc, lora))
    assert max(l2sp[0], ewc[0]) < plain_new + 0.3
    assert ewc[0] < l2sp[0] and l2sp[1] < ewc[1]
    said(PAGE, "That was one seed and one strength of each: too little to say which penalty is ahead")
    said(PAGE, "With either penalty the tweets are learned as well as without one")
    said(PAGE, f"LoRA learned less and ends at {lora[0]:.1f}")


def test_going_part_of_the_way_back():
    (before_new, before), (plain_new, plain) = kept("before"), kept("plain fine-tuning")
    half, most, lora = map(kept, ("half way back", "a quarter back", "LoRA, r = 16"))
    assert 0.15 < (half[1] - before) / (plain - before) < 0.25
    assert (half[0] - plain_new) / (before_new - plain_new) < 0.15
    said(PAGE, f"tweets are at {half[0]:.1f} and the old domains at {half[1]:.1f}: most of what was "
               "learned is kept, and a fifth of the damage is left")  # fmt: skip
    assert most[0] < lora[0] and most[1] < lora[1]
    said(PAGE, "A quarter back the model is ahead of this LoRA run on both")
