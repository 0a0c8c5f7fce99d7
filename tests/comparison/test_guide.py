r"""The guide takes what fits and is best in validation, and says its price and what the data could not have told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coursekit.comparison import from_csv, guide
from coursekit.comparison.evidence.intervals import Interval
from coursekit.comparison.evidence.plan import Cell, Run
from coursekit.comparison.evidence.results import CONSTANT, Evidence
from coursekit.comparison.guide import Budget
from coursekit.errors import CourseError
from coursekit.paths import DATA

COST = from_csv(DATA / "evidence" / "comparison.csv")[0]


def runs(arm: str, right: int, validation: float, steps: int = 100, seeds: int = 3) -> list[Run]:
    # The first `right` sentences of 400, so that a better arm is right wherever a worse one is.
    correct = (True,) * right + (False,) * (400 - right)
    return [Run(Cell(arm, steps, 1e-3, s), ((steps, validation),), correct, 7, 1.0) for s in range(seeds)]


EVIDENCE = Evidence(
    "t",
    (
        *runs(CONSTANT, 399, 0.99),
        *runs("full", 340, 0.85),
        *runs("full", 340, 0.855, steps=200),
        *runs("lucky", 338, 0.80),
        *runs("good", 336, 0.84),
        *runs("small", 280, 0.70),
        *runs("head", 260, 0.65),
        *runs("dear", 390, 0.97),
        *runs("late", 395, 0.98, seeds=1),
    ),
)
COSTS = {
    name: replace(COST, method=name, trained=trained, storage_bytes=4 * trained, peak=peak, step_ratio=ratio)
    for name, (trained, peak, ratio) in {
        "full": (1_000_000, 500, 1.0), "good": (50_000, 300, 0.8), "lucky": (50_000, 250, 0.7),
        "small": (1_000, 200, 0.6), "head": (0, 100, 0.3), CONSTANT: (0, 0, 0.01), "late": (10, 10, 0.1),
    }.items()
}  # fmt: skip


def decide(**limits):
    return guide.decide(EVIDENCE, COSTS, Budget("b", **limits))


def test_the_leader_is_chosen_by_validation_and_of_those_nearly_as_good_the_one_that_needs_least_is_taken():
    found = decide(memory=320)
    assert found.lead == "good", "better in validation, though another has more test sentences right"
    assert found.arm == "lucky", "a lower peak"
    assert list(found.kept) == ["lucky"] and list(found.left) == ["small", "head"]
    assert found.price.value == pytest.approx(-0.005)
    assert found.left["small"].value == pytest.approx(-0.14) and found.kept["lucky"].low > -0.03
    assert found.kept["lucky"].value == pytest.approx(2 / 400)
    assert "4 fit, `good`* leads in validation; within 0.03 and not shown to be worse: `lucky`*" in str(found)
    to_lead, to_full = ". Lowest peak: `lucky`*, +0.005 (", "not told apart from `good`*, -0.005 ("
    assert to_lead in str(found) and to_full in str(found) and str(found).endswith("Preliminary")


@pytest.mark.parametrize(
    "limits, arm",
    [
        ({"trained": 49_999}, "small"),
        ({"trained": 0}, "head"),
        ({"stored": 199_999}, "small"),
        ({"memory": 299}, "lucky"),
        ({"time": 0.79}, "lucky"),
        ({"time": 0.65, "memory": 150, "short_of": "time"}, "head"),
        ({"only": ("good", "small")}, "good"),
    ],
)
def test_every_limit_counts(limits, arm):
    assert decide(**limits).arm == arm


def wide(arm: str, validation: float) -> list[Run]:
    r"""Three seeds that scatter: about as good as `good` on average, and hardly anything is known of it."""
    right = (400, 330, 270)
    return [
        replace(runs(arm, n, validation)[seed], cell=Cell(arm, 100, 1e-3, seed))
        for seed, n in enumerate(right)
    ]


def test_a_method_of_which_little_is_known_is_not_kept_though_nothing_shows_it_to_be_worse():
    evidence = Evidence("t", (*EVIDENCE.runs, *wide("vague", 0.80)))
    costs = COSTS | {"vague": replace(COSTS["small"], method="vague", trained=10)}
    found = guide.decide(evidence, costs, Budget("b", trained=60_000))
    assert found.left["vague"].high > 0, "not told apart from the leader, and the smallest of all"
    assert "vague" not in found.kept and found.arm == "good"


def test_who_is_short_of_nothing_takes_the_leader_and_not_the_smallest_of_those_kept():
    found = decide()
    assert found.lead == found.arm == "full" and set(found.kept) == {"lucky"} and found.price is None
    assert str(found).endswith("Short of nothing, take `full`*. Preliminary")


def test_the_need_decides_and_not_the_number_of_parameters():
    costs = COSTS | {"lucky": replace(COSTS["lucky"], trained=55_000)}
    known = ("good", "lucky", "small")
    budgets = {need: Budget("b", only=known, short_of=need) for need in guide.NEEDS}
    taken = {need: guide.decide(EVIDENCE, costs, budget).arm for need, budget in budgets.items()}
    assert taken == {"trained": "good", "stored": "good", "memory": "lucky", "time": "lucky"}


def test_of_step_times_that_noise_could_turn_round_the_better_in_validation_is_taken():
    near = COSTS | {
        "full": replace(COSTS["full"], step_ratio=0.97),
        "good": replace(COSTS["good"], step_ratio=0.72),
    }
    assert guide.decide(EVIDENCE, near, Budget("b", time=0.9)).arm == "good", (
        "0.72 against 0.70, and full against itself is 0.03 off"
    )
    apart = near | {"good": replace(COSTS["good"], step_ratio=0.77)}
    assert guide.decide(EVIDENCE, apart, Budget("b", time=0.9)).arm == "lucky"


def test_a_wider_tolerance_keeps_one_of_which_little_is_known_and_none_that_is_shown_to_be_worse():
    evidence = Evidence("t", (*EVIDENCE.runs, *wide("vague", 0.80)))
    costs = COSTS | {"vague": replace(COSTS["small"], method="vague", trained=10_000)}
    found = guide.decide(evidence, costs, Budget("b", trained=60_000), within=0.5)
    assert set(found.kept) == {"lucky", "vague"} and found.arm == "vague" and found.within == 0.5
    assert "small" in found.left and "within 0.5 and not shown to be worse" in str(found)


def test_one_that_is_shown_to_be_a_little_worse_is_left_though_it_needs_least():
    evidence = Evidence("t", (*EVIDENCE.runs, *runs("slight", 332, 0.80)))
    costs = COSTS | {"slight": replace(COSTS["small"], method="slight", trained=10)}
    found = guide.decide(evidence, costs, Budget("b", trained=60_000))
    gap = found.left["slight"]
    assert gap.tells and gap.low > -guide.TOLERANCE, "told apart from the leader, and within the tolerance"
    assert found.arm == "good"


def test_one_whose_interval_ends_at_0_is_not_shown_to_be_worse(monkeypatch):
    ends = {"lucky": Interval(-0.01, -0.02, 0.0), "good": Interval(-0.01, -0.02, -0.001)}
    monkeypatch.setattr(Evidence, "minus", lambda _, arm, lead: ends.get(arm, Interval(-0.2, -0.3, -0.1)))
    found = decide()
    assert found.lead == "full" and set(found.kept) == {"lucky"}


def test_what_fits_nothing_and_what_is_alone():
    assert decide(time=0.2) is None, (
        "neither the constant answer nor an arm without every seed is a method to take"
    )
    alone = decide(trained=0)
    assert alone.kept == alone.left == {}
    full = decide(only=("full",))
    assert full.price is None and str(full) == "b: 1 fit, `full`* leads in validation. Preliminary"
    clear = decide(memory=200)
    assert (clear.arm, list(clear.left)) == ("small", ["head"])
    assert ", and no other is kept, -0.150" in str(clear)


def test_validation_may_have_chosen_badly_and_what_the_test_sentences_show_to_be_better_is_kept():
    misled = Evidence("t", (*EVIDENCE.runs, *runs("shirt", 300, 0.99)))
    costs = COSTS | {"shirt": replace(COSTS["good"], method="shirt", trained=60_000)}
    found = guide.decide(misled, costs, Budget("b", trained=60_000))
    assert found.lead == "shirt" and set(found.kept) == {"lucky", "good"} and found.arm == "good"


def test_how_far_the_intervals_reach_is_said():
    margins = sorted(found.margin for found in guide.against(EVIDENCE).values())
    assert f"reach {margins[0]:.3f} to {margins[-1]:.3f} to either side" in guide.resolution(EVIDENCE)
    assert guide.resolution(EVIDENCE).endswith(f"{guide.TOLERANCE:g}")
    assert "not known" in guide.resolution(Evidence("t", ()))


def searched(arm: str, best: float, lacks: bool = False) -> list[Run]:
    r"""Three learning rates, the middle one the best; lacks: with one seed only, and the lowest with all."""
    found = [replace(run, cell=replace(run.cell, rate=1e-4)) for run in runs(arm, 300, best - 0.02)]
    middle = runs(arm, 336, best, seeds=1 if lacks else 3)
    high = [replace(run, cell=replace(run.cell, rate=1e-2)) for run in runs(arm, 200, 0.5, seeds=1)]
    middle = [replace(run, cell=replace(run.cell, rate=1e-3)) for run in middle]
    return (
        [replace(r, cell=replace(r.cell, rate=3e-4)) if r.cell.rate == 1e-4 else r for r in found]
        + middle
        + [replace(r, cell=replace(r.cell, rate=3e-3)) for r in high]
    )


def test_an_arm_is_preliminary_while_its_search_goes_on_and_left_out_while_its_best_rate_lacks_seeds():
    evidence = Evidence(
        "t", (*searched("lora", 0.8), *searched("ia3", 0.8, lacks=True), *runs("full", 340, 0.85))
    )
    assert guide.known(evidence) == ["lora", "full"], "of ia3 a better rate is known, without its seeds"
    assert guide.preliminary(evidence) == {"full"}, "one rate is no search"
    choice = guide.decide(evidence, COSTS | {"lora": replace(COSTS["good"], method="lora")}, Budget("b"))
    assert (
        choice.preliminary == {"full"}
        and choice.star("lora") == "`lora`"
        and choice.star("full") == "`full`*"
    )
    longer = Evidence("t", (*evidence.runs, *runs("lora", 340, 0.79, steps=200)))
    assert guide.preliminary(longer) == {"full"}, "longer runs are no part of the search"
    (row,) = guide.pairs(evidence, {"?": ("lora", "full")}).rows
    assert row[1] == "lora − full*" and row[2] == "7 and 7"
    (row,) = guide.pairs(evidence, {"?": ("lora", "ia3")}).rows
    assert row[-1] == "ia3: not enough runs yet"


def test_an_arm_without_a_cost_is_not_considered():
    assert "dear" in guide.known(EVIDENCE) and decide().lead == "full"


def test_lines_about_the_file():
    assert guide.below(EVIDENCE, "head") == []
    worse = Evidence("t", (*EVIDENCE.runs, *runs("bad", 200, 0.5)))
    assert guide.below(worse, "head") == ["bad"] and guide.below(worse, "good") == ["small", "head", "bad"]
    assert list(guide.longer(EVIDENCE)) == ["full"], "twice the steps were run"
    assert guide.longer(EVIDENCE)["full"] == pytest.approx(0.005)
    assert "full, 200 steps" in EVIDENCE.arms and "full, 200 steps" not in guide.against(EVIDENCE)


def test_the_table_has_a_row_for_each_budget():
    budgets = [Budget("small", trained=60_000), Budget("nothing", time=0.2)]
    choices = [guide.decide(EVIDENCE, COSTS, budget) for budget in budgets]
    one, none = guide.table(choices, budgets, COSTS).rows
    assert one[:6] == ["small", "good*", "50,000", "200", "0.0", "0.80"] and one[-1] == "1 of 3"
    assert one[6].startswith("-0.010 (") and none[1] == "nothing with enough runs fits"
    noisy = COSTS | {"full": replace(COSTS["full"], step_ratio=0.97)}
    special = Budget("nothing special")
    (all_,) = guide.table([guide.decide(EVIDENCE, noisy, special)], [special], noisy).rows
    assert all_[1] == "full*" and all_[5] == "1", "by definition, whatever the noise of its own time"
    with pytest.raises(CourseError, match="one choice for each budget: got 1 for 2"):
        guide.table(choices[:1], budgets, COSTS)


def test_a_budget_is_checked():
    with pytest.raises(CourseError, match="trained must be a non-negative integer, such as 100000; got -1"):
        Budget("b", trained=-1)
    with pytest.raises(CourseError, match="time must be a number above 0"):
        Budget("b", time=0)
    with pytest.raises(
        CourseError, match="limits on trained and time: short_of must name the one that decides"
    ):
        Budget("b", trained=1, time=0.5)
    with pytest.raises(CourseError, match="unknown short_of 'speed'"):
        Budget("b", short_of="speed")
    assert (Budget("b", stored=1).short_of, Budget("b").short_of) == ("stored", None)


def test_what_the_file_says_is_computed_from_it():
    first, star, more = guide.said(EVIDENCE, expected=32)
    assert first.startswith("6 of 32 methods can be judged: 3 seeds") and "100 steps; 25 runs" in first
    assert star.endswith("dear, full, good, head, lucky, small")
    assert more == "twice the steps brought, in validation accuracy: full +0.005; none more than 0.01"
    short = Evidence("t", tuple(run for run in EVIDENCE.runs if run.cell.steps == 100))
    assert guide.said(short, 32)[-1] == (
        "whether 100 steps are enough is not known: runs of twice the steps are missing for full"
    )
    best, fewest, floor = guide.answers(EVIDENCE)
    assert best.startswith("1. full fine-tuning* 0.850; above it on average `dear`*, +0.125")
    assert "Better than full: `dear`*; not told apart from it: `lucky`*" in best
    assert fewest.endswith(
        "within 0.05: `dear`*, 7, 100.00% of all; within 0.03: `dear`*, 7, 100.00% of all"
    ) and floor.endswith("none")
    bad = guide.answers(Evidence("t", (*EVIDENCE.runs, *runs("bad", 200, 0.5))))[2]
    assert "`bad`* -0." in bad and "told apart" not in bad
    assert list(guide.against(EVIDENCE)) == ["dear", "lucky", "good", "small", "head"]
    found = guide.points(EVIDENCE, without=("head",))
    assert set(found) == {"full", "dear", "lucky", "good", "small"} and found["good"][:2] == (7, 0.84)
    assert found["good"][2] < 0.84 < found["good"][3]


def test_fewest_parameters_are_named_for_each_meaning_of_near():
    sizes = {"full": (340, 200), "slight": (332, 2), "less": (338, 5)}
    found = [
        replace(run, parameters=size) for arm, (right, size) in sizes.items() for run in runs(arm, right, 0.8)
    ]
    fewest = guide.answers(Evidence("t", tuple(found)), within=(0.05, 0.02, 0.001))[1]
    assert fewest.endswith(
        "near full, within 0.05: `slight`*, 2, 1.00% of all; within 0.02: `less`*, 5, 2.50% of all; "
        "within 0.001: none"
    )


def test_what_more_steps_bring_is_said_as_far_as_it_was_run():
    soft = (*runs("prompt", 280, 0.70), *runs("p-tuning", 280, 0.70), *runs("lora", 330, 0.82))
    waiting, slow = guide.said(Evidence("t", (*EVIDENCE.runs, *soft)), 32)[-2:]
    assert waiting == "runs of twice the steps are missing for lora, prompt"
    assert slow.startswith("soft prompts learn slowly: the places of prompt and p-tuning say")
    done = (*runs("prompt", 300, 0.75, steps=200), *runs("lora", 330, 0.825, steps=200))
    last = guide.said(Evidence("t", (*EVIDENCE.runs, *soft, *done)), 32)[-1]
    assert last.startswith(
        "twice the steps brought, in validation accuracy: full +0.005, prompt +0.050, lora +0.005"
    )
    assert last.endswith("so the places of prompt say what 100 steps do, not where they end")
    over = guide.said(Evidence("t", tuple(searched("lora", 0.8))), expected=1)[1]
    assert over == "the search for the learning rate is over for all of them"


def test_what_the_shortcuts_do_is_said_as_far_as_it_was_run():
    (waiting,) = guide.shortcuts(Evidence("t", ()))
    assert waiting.endswith(
        "not measured yet: neither shortcut; batches by length; batches by length and bfloat16"
    )
    some = (*runs("plain", 336, 0.8), *runs("by-length", 280, 0.8))
    found, waiting = guide.shortcuts(Evidence("t", some))
    assert found.startswith(
        "the shortcuts, tried with LoRA: batches by length minus neither shortcut: -0.140"
    )
    assert waiting.endswith("not measured yet: batches by length and bfloat16")
    assert len(guide.shortcuts(Evidence("t", (*some, *runs("by-length-bfloat16", 336, 0.8))))) == 2


def test_without_full_fine_tuning_nothing_is_compared_with_it():
    alone = Evidence("t", tuple(run for run in EVIDENCE.runs if run.cell.arm != "full"))
    assert guide.against(alone) == {} and "not enough runs yet" in guide.answers(alone)[0]
