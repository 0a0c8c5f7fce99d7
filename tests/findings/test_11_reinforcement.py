r"""What 11 says of the stored runs, and of its own."""

from __future__ import annotations

import re
import statistics

import nbformat
import pytest
import torch
from finding import ROOT, printed, said, tenths

from coursekit.experiments import intervals, results
from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import Results
from coursekit.tasks.sums import sums
from coursekit.training.grpo import group_advantages

PAGE = "11_reinforcement"


def alt(label: str) -> str:
    r"""The alt text of the picture that has a line or a bar `label`, up to its axes."""
    cells = nbformat.read(ROOT / "notebooks" / f"{PAGE}.ipynb", as_version=4).cells
    alts = [
        o.get("metadata", {}).get("image/png", {}).get("alt", "") for c in cells for o in c.get("outputs", [])
    ]
    (found,) = [alt for alt in alts if label in alt]
    return found.split(". x:")[0]


def curve(label: str) -> list[list[float]]:
    r"""The numbers behind the labels of the picture that has a line `label`."""
    return [[float(x) for x in re.findall(r"\d*\.?\d+", line)] for line in alt(label).split("; ")]


@pytest.fixture(scope="module")
def stored() -> Results:
    return results.read("grpo")


def share(found: Results, arm: str, of: str = "") -> str:
    r"""Of the held-out sums, as the page says it."""
    return f"{found.accuracy(arm, of=of).value:.2f}"


BEFORE, GRPO, SHOWN, CARELESS = "as released", "GRPO", "shown the answers", "careless rule"
LONGER, RANK_1, MENDED = "shown the answers for as long", "GRPO with r = 1", "mended rule"
SLOW = "GRPO at 0.0006"
#: At a third of the page's rate, at it, and at three times it.
RATES, LONGER_RATES = ([f"{arm} at 0.0006", arm, f"{arm} at 0.006"] for arm in (GRPO, LONGER))
#: (one arm, another, the measure): the eight comparisons of section 4.
ASKED = [(one, other, of) for one, other in ((GRPO, BEFORE), (LONGER, GRPO)) for of in ("right", "", "eight")]
ASKED += [(SHOWN, GRPO, "right"), (RANK_1, GRPO, "right")]


@pytest.fixture(scope="module")
def adjusted(stored) -> dict[str, Difference]:
    r"""What the table of section 4 shows."""
    return stored.paired({" ".join(one): one for one in ASKED})


def points(found: Difference) -> str:
    r"""A positive difference as a table prints it: 26.6 points (15.1 to 38.1)."""
    assert found.low > 0
    return found.in_points().replace("+", "").replace(" (", " points (")


def test_what_the_reward_changed(stored, adjusted):
    drawn, likeliest, among = list(adjusted.values())[:3]
    assert drawn.verdict == likeliest.verdict == "better" and among.verdict == "no clear difference"
    said(PAGE, f"GRPO raises the share of right draws by {points(drawn)}")
    said(PAGE, f"Eight steps raised the share of right draws by {points(drawn)} in three stored runs")
    before, after = (share(stored, arm, "eight") for arm in (BEFORE, GRPO))
    now = f"Eight draws held a right number for {before} of the sums before and hold one for {after} now"
    said(PAGE, f"{now}, no clear difference")
    said(PAGE, "New skill is not shown")


def measure(found: Results, arm: str, of: str) -> torch.Tensor:
    r"""Of each seed and sum."""
    return torch.tensor(found.scores(arm, of)).double()


#: As the picture has them.
PARTS = ["form", "choice", "rare answers", "confidence", "lost", "the others"]


def kinds(found: Results, arm: str) -> list[torch.Tensor]:
    r"""Of PARTS those behind form, each (seeds, sums): 1 where a sum is of this kind."""
    was, now, had = measure(found, BEFORE, ""), measure(found, arm, ""), measure(found, BEFORE, "eight")
    won = (1 - was) * now
    return [won * had, won * (1 - had), was * now, was * (1 - now), (1 - was) * (1 - now)]


def bring(found: Results, arm: str, runs: slice = slice(None)) -> dict[str, float]:
    r"""Each part -> its points of the drawn answers, in these runs."""
    change = {of: measure(found, arm, of) - measure(found, BEFORE, of) for of in ("right", "first")}
    brought = [change["right"] - change["first"], *(kind * change["first"] for kind in kinds(found, arm))]
    assert torch.allclose(sum(brought), change["right"]), "they add up to the gain"
    return {name: 100 * one[runs].mean().item() for name, one in zip(PARTS, brought, strict=True)}


def another(part: dict[str, float]) -> float:
    return part["choice"] + part["rare answers"] + part["lost"]


def test_every_run_of_the_picture_is_split_by_the_draws_before(stored):
    assert torch.equal(measure(stored, BEFORE, "eight"), (measure(stored, BEFORE, "first") > 0).double())
    bars = [one for one in alt("rare answers").split("; ") if one.startswith("bars")]
    for arm, bar, pale in zip((GRPO, SLOW), bars[::2], bars[1::2], strict=True):
        written = {name: float(x) for name, x in re.findall(rf"({'|'.join(PARTS)}) (-?[\d.]+)", bar)}
        assert written == pytest.approx(part := bring(stored, arm), rel=0.005)
        assert pale.endswith(f"choice + rare + lost {another(part):.1f}, all {sum(part.values()):.1f}")


def test_form(stored):
    beside = [measure(stored, arm, "first") - measure(stored, arm, "right") for arm in (BEFORE, GRPO)]
    form = points(intervals.difference(*beside)).split(" (")[0]
    said(PAGE, f"Form, {form}: now nearly every right number stands alone")
    assert beside[1].sum() < 0.01 * measure(stored, GRPO, "first").sum()


def test_where_the_points_come_from(stored):
    part = bring(stored, GRPO)
    runs = [bring(stored, GRPO, slice(seed, seed + 1)) for seed in range(3)]
    assert all(another(one) > max(one["confidence"], one["form"]) for one in runs)
    said(PAGE, "The largest part came from other numbers that became the likeliest")
    said(PAGE, "In each of the three runs another likeliest number is the largest part")
    said(PAGE, f"Another likeliest number, {another(part):.1f} points")
    said(PAGE, f"Confidence, {part['confidence']:.1f} points")
    rare = kinds(stored, GRPO)[1]
    elsewhere = int((rare * measure(stored, BEFORE, "eight").amax(0)).sum())
    assert 0 < elsewhere < rare.sum()
    said(PAGE, f"{elsewhere} of the {int(rare.sum())} rare answers were among the other runs’ draws")


def test_the_parts_at_another_rate(stored):
    slow, part = bring(stored, SLOW), bring(stored, GRPO)
    assert share(stored, SLOW, "right") == share(stored, GRPO, "right")
    assert slow["rare answers"] < 0.6 * part["rare answers"] and slow["confidence"] > 1.2 * part["confidence"]
    said(PAGE, "at a third of it as many draws are right")
    assert 0 < another(slow) - slow["confidence"] < 1
    nearly = f"there confidence ({slow['confidence']:.1f} points) brings nearly as much as another likeliest number"
    said(PAGE, f"{nearly} ({another(slow):.1f})")


def test_both_at_three_rates(stored):
    ours, rivals = ([share(stored, arm, "right") for arm in arms] for arms in (RATES, LONGER_RATES))
    assert ours[0] == ours[1]
    said(PAGE, f"At a third of it {ours[0]} of GRPO’s draws are right and {rivals[0]} of the longer trained rival’s")
    said(PAGE, f"at three times it, {ours[2]} and {rivals[2]}")
    assert all(found < rival for found, rival in zip(ours, rivals, strict=True))
    assert ours[2] < ours[0] < rivals[0] and rivals[2] < rivals[0]
    for arms in (RATES, LONGER_RATES):
        assert [stored.rate(arm) for arm in arms] == [6e-4, 2e-3, 6e-3]
        assert {len(stored.arms[arm]) for arm in arms} == {3}
    assert {stored.steps(arm) for arm in LONGER_RATES} == {18}
    assert stored.rate(SHOWN) == stored.rate(RANK_1) == 2e-3


def test_the_rival_is_better_in_the_same_time(stored, adjusted):
    longer, likeliest, _, shown, rank_1 = list(adjusted.values())[3:]
    assert longer.family == 8 and longer.verdict == likeliest.verdict == "better"
    assert shown.verdict == rank_1.verdict == "no clear difference"
    (times,) = printed(PAGE, r"GRPO takes ([\d.]+) times as long")
    assert stored.steps(LONGER) == 18 <= float(times) * stored.steps(GRPO) + 1
    same = f"For the same 64 sums, each seen once, it shows {shown.verdict}"
    said(PAGE, f"{same}, but GRPO takes {times} times as long in this run")
    said(PAGE, f"Trained for as long, {stored.steps(LONGER)} steps over these sums, it is {tenths(longer)}")
    said(PAGE, f"In the same time, showing the right answers was {tenths(longer)}, only just, after the adjustment")
    one_rank = rank_1.in_points().split(" (")[0]
    said(PAGE, f"The number of parameters makes no clear difference to GRPO: rank 1 has {one_rank} points")
    assert stored.steps(GRPO) == 8
    said(PAGE, "The rival also made 18 updates where GRPO made 8")
    said(PAGE, "show them: here that was better")


def test_how_firm_the_table_is(stored, adjusted):
    better = {name: one for name, one in adjusted.items() if one.verdict == "better"}
    close = [name for name, one in better.items() if f"{one.p:.3f}" == "0.049"]
    assert len(better) == 5 and len(close) == 4
    only_just = "Four of the table’s five better hold only just (p = 0.049 after the adjustment)"
    said(PAGE, f"{only_just}, this one among them")
    assert {f"{GRPO} {BEFORE} ", f"{LONGER} {GRPO} ", f"{LONGER} {GRPO} right"} < set(close)


def test_the_careless_rule_with_every_seed(stored):
    runs = stored.arms[CARELESS]
    assert len(runs) == 3 and all(mean(run.more["right"]) < 0.01 and mean(run.more["paid"]) > 0.9 for run in runs)
    right, paid = (f"{stored.accuracy(CARELESS, of).value:.3f}" for of in ("right", "paid"))
    said(PAGE, f"{right} of the drawn answers are right and {paid} are paid")
    said(PAGE, f"A careless rule ended up paying {paid} of the answers, while {right} were right")
    before, after = (share(stored, arm, "first") for arm in (BEFORE, CARELESS))
    assert before < after
    said(PAGE, f"{before} of the stored draws had the right first number before, {after} after")


def test_the_mended_rule(stored):
    found = stored.difference(MENDED, BEFORE, of="first")
    assert found.verdict == "better" and len(stored.arms[MENDED]) == 3 and stored.steps(MENDED) == 6
    now = f"{share(stored, MENDED, 'first')} of the stored draws have the right first number, {tenths(found)}"
    said(PAGE, f"After six steps with the course’s own rule {now} than before")


def test_how_far_from_the_released_model(stored):
    by_run = {arm: measure(stored, arm, "kl").mean(1) for arm in (GRPO, SHOWN, LONGER, CARELESS, MENDED)}
    for arm, kl in by_run.items():
        printed(PAGE, rf"{arm} .*  {kl.mean():.1f} \({kl.min():.1f} to {kl.max():.1f}\)\n")
    kl = {arm: one.mean().item() for arm, one in by_run.items()}
    assert max(kl, key=lambda arm: kl[arm]) == CARELESS
    far = "Of the table’s trainings the careless one also went farthest from the released model"
    said(PAGE, f"{far}, {kl[CARELESS]:.1f} nats an answer against GRPO’s {kl[GRPO]:.1f}")


def test_the_first_result_has_its_baseline(stored):
    totals = [one.total for one in sums(146, 64)[1]]  # the held-out sums of the stored runs
    constant = max(totals.count(one) for one in totals) / len(totals)
    before, after = share(stored, BEFORE, "right"), share(stored, GRPO, "right")
    said(PAGE, f"In stored runs {before} of the draws for {len(totals)} other sums are right")
    said(PAGE, f"the best constant answer would be right for {constant:.2f}")
    said(PAGE, f"Eight steps of the training below make it {after}")


def mean(text: str) -> float:
    return statistics.fmean(map(float, text.split()))


def drawn() -> list[list[list[str]]]:
    r"""The tables of drawn answers: as released, after GRPO, after the careless rule, after the course's own rule."""
    tables = re.findall(r"((?:\d+ \+ \d+ = \d+ .*\n?){4})", "\n".join(printed(PAGE, r"(?s)(.*)")))
    assert len(tables) == 4
    return [[re.split(r"\s{2,}", row.strip()) for row in table.splitlines()] for table in tables]


ENTROPY = r"entropy ([\d.]+) nats a token at the first step, ([\d.]+) at the last"


def test_the_rewards_of_the_example():
    example = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))[0].tolist()
    assert example == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    said(PAGE, "Rewards 1, 0, 0, 0 become 1.5, −0.5, −0.5, −0.5")


def test_this_run_of_the_reward():
    reward, first, among = curve("reward from")
    shown = printed(PAGE, r"reward ([\d.]+) at the first step, ([\d.]+) at the last; at first ([\d.]+) among eight")
    assert shown == tuple(f"{x:.2f}" for x in (*reward[:2], among[0]))
    said(PAGE, f"The reward climbs from {reward[0]:.2f} to {reward[1]:.2f} in this run")
    assert reward[1] == first[1]
    last = [run.more["rewards"].split()[-1] for run in results.read("grpo").arms[GRPO]]
    ends = "{:.2f}, {:.2f} and {:.2f}".format(*map(float, last))
    said(PAGE, f"This {reward[1]:.2f} comes from eight new sums in one run; the three stored runs end at {ends}")
    said(PAGE, "Entropy falls from {} to {} nats a token".format(*printed(PAGE, ENTROPY)))


def test_this_run_of_the_careless_rule():
    rows = drawn()[2]
    given = [answer for row in rows for answer in row[1].split(" · ")]
    assert len(given) == 32 and not any(answer.isdigit() for answer in given)
    assert rows[0][-2:] == ["0.00", "0.00"]
    said(PAGE, "the first row, eight wrong numbers, is paid like the others")
    paid, _, right = curve("paid 0.")
    assert paid[-1] == 1.0
    assert printed(PAGE, r"at the last step ([\d.]+) are paid and ([\d.]+) right") == ("1.00", f"{right[-1]:.2f}")


def test_the_form_that_the_rule_refuses_is_on_the_page():
    printed(PAGE, r"(5 \+ 1 = 6 .* · 2 · .*6 in this)")
    said(PAGE, 'the rule refuses "6 in this" as it refuses "2"')


def test_two_steps_on_one_draw():
    first, second = printed(PAGE, r"step 1 on one draw: ([\d.]+) [^\n]*\s+step 2 on one draw: ([\d.]+)")
    assert first == "0.00" and float(second) > 0.1
    said(PAGE, f"The second step clips {second} of the tokens in this run")
    told, drawn_, longest = printed(PAGE, r"(\d+) of (\d+) answers have (\d) tokens")
    assert told == drawn_ == "64" and longest == "3"
    said(PAGE, "All 64 answers are cut off at three tokens")


def test_all_weights_make_no_clear_difference_to_grpo(stored):
    rates = {rate: f"GRPO of all weights at {rate:g}" for rate in (6e-6, 2e-5, 6e-5, 2e-4)}
    best = max(rates, key=lambda rate: stored.accuracy(rates[rate], of="right").value)
    found = stored.difference(rates[best], GRPO, of="right")
    assert best == 2e-5 and found.verdict == "no clear difference"
    said(PAGE, f"all weights at the best of four rates {found.in_points()[:-1]}, not in the table)")
