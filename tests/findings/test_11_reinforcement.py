r"""What 11 says of the stored runs, and of its own."""

import random
import re
import statistics

import nbformat
import pytest
import torch
from finding import ROOT, printed, said

from coursekit.checks import exercises
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import Results
from coursekit.tasks.sums import sums
from coursekit.training.grpo import group_advantages

PAGE = "11_reinforcement"


def alts(label: str) -> list[str]:
    r"""The alt texts of the pictures that have a line or a bar `label`, up to their axes."""
    cells = nbformat.read(ROOT / "notebooks" / f"{PAGE}.ipynb", as_version=4).cells
    found = [o.get("metadata", {}).get("image/png", {}).get("alt", "") for c in cells for o in c.get("outputs", [])]
    return [alt.split(". x:")[0] for alt in found if label in alt]


def curve(label: str) -> list[list[float]]:
    r"""The numbers behind the labels of the picture that has a line `label`."""
    (found,) = alts(label)
    return [[float(x) for x in re.findall(r"\d*\.?\d+", line)] for line in found.split("; ")]


@pytest.fixture(scope="module")
def stored() -> Results:
    return results.read("grpo")


def share(found: Results, arm: str, of: str = "") -> str:
    r"""Of the held-out sums, as the page says it."""
    return f"{found.accuracy(arm, of=of).value:.2f}"


BEFORE, GRPO, SHOWN, CARELESS = "as released", "GRPO", "shown the answers", "careless rule"
LONGER = "shown the answers for as long"
#: At a third of the page's rate, at it, and at three times it.
RATES, LONGER_RATES = ([f"{arm} at 0.0006", arm, f"{arm} at 0.006"] for arm in (GRPO, LONGER))
#: (one arm, another, the measure): the comparisons of section 4's table, one family.
ASKED = [(GRPO, BEFORE, "right"), (LONGER, GRPO, "right"), (SHOWN, GRPO, "right"), (GRPO, BEFORE, "eight")]
ASKED += [(LONGER, BEFORE, "eight")]


def judged(found: Results) -> dict[str, Difference]:
    r"""Section 4's comparisons."""
    return found.paired({" ".join(one): one for one in ASKED})


@pytest.fixture(scope="module")
def adjusted(stored) -> dict[str, Difference]:
    return judged(stored)


def test_the_table_has_its_comparisons_and_these_are_better(adjusted):
    assert {one.family for one in adjusted.values()} == {len(ASKED)} == {5}
    better = {name for name, one in adjusted.items() if one.verdict == "better"}
    assert better == {f"{GRPO} {BEFORE} right", f"{LONGER} {GRPO} right", f"{LONGER} {BEFORE} eight"}
    assert {one.verdict for name, one in adjusted.items() if name not in better} == {"no clear difference"}
    for one in adjusted.values():
        printed(PAGE, rf"({re.escape(one.in_points())}  +{one.verdict})\n")
    printed(PAGE, r"verdicts adjusted for all (five) comparisons")


def points(found: Difference) -> str:
    r"""A positive difference as a table prints it: 26.6 points (15.1 to 38.1)."""
    assert found.low > 0
    return found.in_points().replace("+", "").replace(" (", " points (")


def test_what_the_reward_changed(stored, adjusted):
    drawn, among = (adjusted[f"{GRPO} {BEFORE} {of}"] for of in ("right", "eight"))
    assert drawn.verdict == "better" and among.verdict == "no clear difference"
    assert len(stored.arms[GRPO]) == len(stored.arms[BEFORE]) == 10
    said(PAGE, f"GRPO raises the share of right draws by {points(drawn)}")
    said(
        PAGE,
        f"Eight steps raised the share of right draws by {points(drawn)} in ten stored runs; new skill is not shown",
    )
    before, after = (share(stored, arm, "eight") for arm in (BEFORE, GRPO))
    runs = {(run.cell.arm, run.cell.seed): run for run in stored.runs if run.cell.arm in (BEFORE, GRPO)}
    drawn_before = [
        float(eight)
        for seed in range(10)
        for was, now, eight in zip(
            runs[BEFORE, seed].correct, runs[GRPO, seed].correct, runs[BEFORE, seed].more["eight"].split(), strict=True
        )
        if now and not was
    ]
    assert len(drawn_before) == 196 and sum(drawn_before) == 96
    said(PAGE, "Of the sums found, about half had a right number among eight draws before. Eight draws hold one "
               f"for {after} of the sums, before for {before}: {among.verdict}")  # fmt: skip


def test_the_sums_to_measure_on_are_not_asked():
    for seed in range(10):  # as benchmarks/topics/grpo.py draws them
        learn, held = sums(146, 64)
        random.Random(seed).shuffle(learn)
        asked = {frozenset((one.a, one.b)) for one in learn[:64]}
        assert not any(frozenset((one.a, one.b)) in asked for one in held)
    said(PAGE, "on 64 sums that the training does not ask")


def measure(found: Results, arm: str, of: str) -> torch.Tensor:
    r"""Of each seed and sum."""
    return torch.tensor(found.scores(arm, of)).double()


#: As the picture has them.
PARTS = ["form", "found", "confidence", "lost", "the others"]


def kinds(found: Results, arm: str) -> list[torch.Tensor]:
    r"""Of PARTS those behind form, each (seeds, sums): 1 where a sum is of this kind."""
    now = measure(found, arm, "")
    was = measure(found, BEFORE, "")[: len(now)]
    return [(1 - was) * now, was * now, was * (1 - now), (1 - was) * (1 - now)]


def bring(found: Results, arm: str, runs: slice = slice(None)) -> dict[str, float]:
    r"""Each part -> its points of the drawn answers, in these runs."""
    after = {of: measure(found, arm, of) for of in ("right", "first")}
    change = {of: now - measure(found, BEFORE, of)[: len(now)] for of, now in after.items()}
    brought = [change["right"] - change["first"], *(kind * change["first"] for kind in kinds(found, arm))]
    assert torch.allclose(sum(brought), change["right"]), "they add up to the gain"
    return {name: 100 * one[runs].mean().item() for name, one in zip(PARTS, brought, strict=True)}


def test_the_bars_of_the_picture(stored):
    (picture,) = alts("bars, the rival")
    shown = {GRPO: "GRPO", LONGER: "the rival"}
    for arm, own in zip(shown, [one for one in picture.split("; ") if one.startswith("bars")], strict=True):
        assert own.startswith(f"bars, {shown[arm]}: ")
        found, part = re.findall(r"([a-z ]+) (-?[\d.]+)(?:, |$)", own.split(": ")[1]), bring(stored, arm)
        expected = part | {"all": sum(part.values())}
        assert {name: float(x) for name, x in found} == pytest.approx(expected, rel=0.005)
        assert [name for name, _ in found] == [*PARTS, "all"]


def test_the_table_of_what_is_won(stored):
    part = bring(stored, GRPO)
    for name, won in (part | {"all": sum(part.values())}).items():
        printed(PAGE, rf"\n({name} +{re.escape(f'{won:.1f}'.replace('-', '−'))})\n")
    printed(PAGE, r"\nall .*\n(Right draws, trained − as released; the mean of ten stored runs)")
    assert {len(stored.arms[arm]) for arm in (BEFORE, GRPO)} == {10}


def test_where_the_rival_leads(stored):
    part, rival = (bring(stored, arm) for arm in (GRPO, LONGER))
    ahead = {name: rival[name] - part[name] for name in PARTS}
    assert ahead["found"] > 10 and ahead["lost"] > 2, "as the caption has it"
    assert max(abs(ahead[name]) for name in ("form", "confidence", "the others")) < 1.5


def test_where_the_points_come_from(stored):
    part = bring(stored, GRPO)
    assert part["found"] + part["lost"] > max(part["confidence"], part["form"])
    said(PAGE, f"found numbers bring {part['found']:.1f} of these points, and lost ones cost {-part['lost']:.1f}. "
               f"Confidence brings {part['confidence']:.1f}, form {part['form']:.1f}")  # fmt: skip


def test_both_at_three_rates(stored):
    rights = []
    for arms in (RATES, LONGER_RATES):
        seeds = [[mean(run.more["right"]) for run in stored.arms[arm][:3]] for arm in arms]
        rights.append(list(map(statistics.fmean, seeds)))
        assert [stored.rate(arm) for arm in arms] == [6e-4, 2e-3, 6e-3]
        assert [len(stored.arms[arm]) for arm in arms] == [3, 10, 3]
    assert {stored.steps(arm) for arm in LONGER_RATES} == {18}
    assert stored.rate(SHOWN) == 2e-3
    assert all(rival > part for part, rival in zip(*rights, strict=True))
    said(PAGE, "It leads at a third of the learning rate, and at three times it, too (three seeds).")


def test_the_rival_in_about_the_same_time(stored, adjusted):
    longer, shown = (adjusted[f"{arm} {GRPO} right"] for arm in (LONGER, SHOWN))
    assert longer.verdict == "better" and shown.verdict == "no clear difference"
    (times,) = printed(PAGE, r"GRPO takes ([\d.]+) times as long")
    assert stored.steps(LONGER) == 18 == pytest.approx(float(times) * stored.steps(GRPO), rel=0.3)
    assert stored.steps(GRPO) == 8
    value, ends = points(longer).split(" points (")
    said(PAGE, "It takes 18 steps, about as long as GRPO’s eight; one pass over the sums takes eight")
    said(PAGE, "In about the same time, showing the answers is better: the rival has "
               f"{value} points more right draws ({ends}")  # fmt: skip
    said(PAGE, f"After as many steps, eight each (one pass), there is {shown.verdict} in right draws")
    assert stored.steps(SHOWN) == 8
    said(PAGE, f"Showing the right answers for as long brought {value} points more ({ends}")


def test_the_rival_reaches_answers_that_the_released_model_rarely_draws(stored, adjusted):
    assert adjusted[f"{LONGER} {BEFORE} eight"].verdict == "better"
    rival, before = (share(stored, arm, "eight") for arm in (LONGER, BEFORE))
    said(PAGE, f"Eight draws hold a right number for {rival} of the sums, before any training for {before}")


def test_the_careless_rule_with_every_seed(stored):
    runs = stored.arms[CARELESS]
    assert (
        len(runs) == 3
        and len(stored.arms[BEFORE]) == 10
        and all(mean(run.more["right"]) < 0.01 and mean(run.more["paid"]) > 0.9 for run in runs)
    )
    right, paid = (f"{stored.accuracy(CARELESS, of).value:.3f}" for of in ("right", "paid"))
    said(PAGE, f"{right} of the drawn answers are right and {paid} are paid")
    said(PAGE, f"A careless rule ended up paying {paid} of the answers, while {right} were right")
    printed(PAGE, rf"(careless rule +{paid} +{right})\n(Shares of the draws for 64 .* of ten seeds, and of three\.)")


def test_the_first_result_has_its_baseline(stored):
    totals = [one.total for one in sums(146, 64)[1]]  # the held-out sums of the stored runs
    constant = max(totals.count(one) for one in totals) / len(totals)
    before = share(stored, BEFORE, "right")
    said(PAGE, f"In ten stored runs {before} of the draws for {len(totals)} other sums are right")
    said(PAGE, f"The best constant answer would be right for {constant:.2f}")


def mean(text: str) -> float:
    return statistics.fmean(map(float, text.split()))


def drawn() -> list[list[list[str]]]:
    r"""The tables of drawn answers: as released, after GRPO, after the careless rule, after the course's own rule."""
    tables = re.findall(r"((?:\d+ \+ \d+ = \d+ .*\n?){4})", "\n".join(printed(PAGE, r"(?s)(.*)")))
    assert len(tables) == 4
    return [[re.split(r"\s{2,}", row.strip()) for row in table.splitlines()] for table in tables]


def test_the_rewards_of_the_example():
    example = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))[0].tolist()
    assert example == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    said(PAGE, "Rewards 1, 0, 0, 0 become 1.5, −0.5, −0.5, −0.5")


def test_this_run_of_the_reward():
    reward, teach = curve("reward from")
    shown = printed(PAGE, r"reward ([\d.]+) at the first step, ([\d.]+) at the last")
    assert shown == tuple(f"{x:.2f}" for x in reward[:2])
    shown = printed(PAGE, r"groups that teach: ([\d.]+) at the first step, ([\d.]+) at the last")
    assert shown == tuple(f"{x:.2f}" for x in teach[:2]) and teach[1] < teach[0]
    said(PAGE, f"Fewer: at the last step only {shown[1]} of the groups teach")
    said(PAGE, f"The reward climbs from {reward[0]:.2f} to {reward[1]:.2f} in this run.")


def test_this_run_of_the_careless_rule():
    rows = drawn()[2]
    given = [answer for row in rows for answer in row[1].split(" · ")]
    assert len(given) == 32 and not any(answer.isdigit() for answer in given)
    assert rows[0][-3:] == ["0.00", "0.00", "1.00"] and {row[-1] for row in rows} == {"1.00"}
    said(PAGE, "so all 32 answers are paid, the first row’s eight wrong numbers too")
    paid, _, right = curve("paid 0.")
    assert paid[-1] == 1.0
    assert printed(PAGE, r"at the last step ([\d.]+) are paid and ([\d.]+) right") == ("1.00", f"{right[-1]:.2f}")


def test_the_form_that_the_rule_refuses_is_on_the_page():
    printed(PAGE, r"(5 \+ 1 = 6 .* · 2 · .*6 in this)")
    said(PAGE, 'The rule refuses "6 in this" as it refuses "2"')


def test_what_the_courses_own_rule_pays():
    *_, row = drawn()[3]
    answers, rule = row[1].split(" · "), exercises()["reinforcement-rule"].reference
    assert row[0] == "15 + 20 = 35" and {"35 Burns", "35 ="} < set(answers)
    paid = rule(15, 20, answers)
    assert f"{sum(paid) / len(paid):.2f}" == row[-1] and dict(zip(answers, paid, strict=True))["35 ="] == 1
    said(PAGE, 'The course’s rule pays "35 Burns" and "35 ="')
    *_, row = drawn()[2]
    assert row[0] == "15 + 20 = 35" and "35." in row[1].split(" · ") and sum(rule(15, 20, ["35."])) == 1
    said(PAGE, 'gives "35." nothing')
