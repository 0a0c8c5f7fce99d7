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
from coursekit.experiments.verdict import holm
from coursekit.tasks.sums import sums

PAGE = "11_reinforcement"


def curve(label: str) -> list[list[float]]:
    r"""The numbers behind the labels of the picture that has a line `label`, from its alt text."""
    cells = nbformat.read(ROOT / "notebooks" / f"{PAGE}.ipynb", as_version=4).cells
    alts = [
        o.get("metadata", {}).get("image/png", {}).get("alt", "") for c in cells for o in c.get("outputs", [])
    ]
    (alt,) = [alt for alt in alts if label in alt]
    return [[float(x) for x in re.findall(r"\d*\.?\d+", line)] for line in alt.split(". x:")[0].split("; ")]


@pytest.fixture(scope="module")
def stored() -> Results:
    return results.read("grpo")


def share(found: Results, arm: str, of: str = "") -> str:
    r"""Of the held-out sums, as the page says it."""
    return f"{found.accuracy(arm, of=of).value:.2f}"


BEFORE, GRPO, SHOWN, CARELESS = "as released", "GRPO", "shown the answers", "careless rule"
LONGER, RANK_1 = "shown the answers for as long", "GRPO with r = 1"
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
    said(PAGE, f"Among drawn answers GRPO is better by {points(drawn)} than the released model")
    said(PAGE, f"{share(stored, GRPO, 'right')} of them are right, {share(stored, BEFORE, 'right')} were")
    said(PAGE, f"Eight steps made drawn answers better by {points(drawn)}")
    before, after = (share(stored, arm, "eight") for arm in (BEFORE, GRPO))
    now = f"Eight held a right number for {before} of the sums before and hold one for {after} now"
    said(PAGE, f"{now}, no clear difference")
    said(PAGE, "New skill is not shown")


def measure(found: Results, arm: str, of: str) -> torch.Tensor:
    r"""Of each seed and sum."""
    return torch.tensor(found.scores(arm, of)).double()


def parts(found: Results, arm: str) -> dict[str, torch.Tensor]:
    r"""The parts of the bar, each (seeds, sums): every drawn answer is in one of them."""
    line, number, likeliest, eight = (measure(found, arm, of) for of in ("right", "first", "", "eight"))
    assert torch.equal(eight, (number > 0).double()), "of the same eight draws"
    own = {"right": line, "right number, wrong form": number - line}
    own["wrong number, likeliest right"] = (1 - number) * likeliest
    own["both wrong, one of eight right"] = (1 - number) * (1 - likeliest) * eight
    own["all wrong"] = (1 - number) * (1 - likeliest) * (1 - eight)
    return own


def test_every_drawn_answer_is_in_one_part_of_the_bar(stored):
    bars = [parts(stored, arm) for arm in (BEFORE, GRPO, SHOWN)]
    for bar in bars:
        assert min(part.min().item() for part in bar.values()) >= 0
        assert torch.equal(sum(bar.values()), torch.ones(3, 64, dtype=torch.double))
    wide = curve("right number, wrong form")
    for name, row in zip(bars[0], wide, strict=True):
        assert row == pytest.approx([bar[name].mean().item() for bar in bars], abs=0.005), name


def test_of_the_bar_only_form_is_clearly_less(stored):
    before, after = parts(stored, BEFORE), parts(stored, GRPO)
    less = {name: intervals.difference(before[name], after[name]) for name in before if name != "right"}
    clear = [name for name, p in holm({name: one.p for name, one in less.items()}).items() if p < 0.05]
    assert clear == ["right number, wrong form"]
    form = less[clear[0]]
    assert printed(PAGE, r"\nform +– +– +(.*)\n") == (form.in_points(),)
    said(PAGE, f"Form, {points(form)}")
    assert after[clear[0]].sum() < 0.01 * measure(stored, GRPO, "first").sum()
    said(PAGE, "now nearly every right number stands alone")


def flow(found: Results, arm: str) -> dict[str, torch.Tensor]:
    r"""What became of the likeliest number, each (seeds, sums)."""
    was, now = (measure(found, name, "") for name in (BEFORE, arm))
    return {"won": (1 - was) * now, "kept": was * now, "lost": was * (1 - now), "never": (1 - was) * (1 - now)}


def test_where_the_points_come_from(stored):
    gained = measure(stored, GRPO, "first") - measure(stored, BEFORE, "first")
    right = measure(stored, GRPO, "right") - measure(stored, BEFORE, "right")
    cases = flow(stored, GRPO)
    part = {name: 100 * (here * gained).mean().item() for name, here in cases.items()}
    assert sum(part.values()) == pytest.approx(100 * gained.mean().item()) and max(part, key=part.get) == "won"
    said(PAGE, f"Where do the {100 * right.mean():.1f} points come from")
    said(PAGE, f"The other {100 * gained.mean():.1f} are right first numbers")
    number = {name: int(here.sum()) for name, here in cases.items()}
    assert sum(number.values()) == 192 == gained.numel()
    said(PAGE, f"a right one, {part['won']:.1f} points, in {number['won']} of 192 cases (64 sums, three runs)")
    had = int((cases["won"] * measure(stored, BEFORE, "eight")).sum())
    said(PAGE, f"In {had} of them it was among the run's eight draws before")
    said(PAGE, f"In {number['won'] - had} it was not")
    all_draws = measure(stored, BEFORE, "eight").amax(0)
    assert had < (cases["won"] * all_draws).sum() < number["won"], "of more draws some hold it, and not all"
    said(PAGE, f"of more draws before, some would have held the {number['won'] - had}")
    said(PAGE, f"Confidence, {part['kept']:.1f} points, in {number['kept']} cases where the likeliest number was right")
    most = int(cases["lost"].sum(1).max())
    lost = f"Lost: −{-part['lost']:.1f} points, in {number['lost']} cases where it was right and no longer is"
    said(PAGE, f"{lost}, {most} of them in one run")
    said(PAGE, f"In {number['lost']} of 192 cases a right one was lost")


def test_the_rate_does_not_explain_the_lead(stored):
    low, high = (f"{GRPO} at {rate:g}" for rate in (6e-4, 6e-3))
    kl = [f"{measure(stored, arm, 'kl').mean():.1f}" for arm in (low, GRPO)]
    lost = [int(flow(stored, arm)["lost"].sum()) for arm in (low, GRPO)]
    said(PAGE, f"A third of it leaves {share(stored, low, 'right')} of the draws right too, with a KL of {kl[0]} nats")
    said(PAGE, f"in place of {kl[1]} and {lost[0]} right sums lost in place of {lost[1]}")
    said(PAGE, f"three times as much leaves {share(stored, high, 'right')}")
    assert share(stored, low, "right") == share(stored, GRPO, "right")


def test_the_rival_is_better_in_the_same_time(stored, adjusted):
    longer, likeliest, _, shown, rank_1 = list(adjusted.values())[3:]
    assert longer.family == 8 and longer.verdict == likeliest.verdict == "better"
    assert shown.verdict == rank_1.verdict == "no clear difference"
    (times,) = printed(PAGE, r"GRPO takes ([\d.]+) times as long")
    assert stored.steps(LONGER) == 18 <= float(times) * stored.steps(GRPO) + 1
    same = f"For the same 64 sums, each seen once, it shows {tenths(shown)}"
    said(PAGE, f"{same}, but GRPO takes {times} times as long in this run")
    said(PAGE, f"Trained for as long, {stored.steps(LONGER)} steps over these sums, it is {tenths(longer)}")
    said(PAGE, f"In the same time, showing the right answers was {tenths(longer)}, just so after the adjustment")
    said(PAGE, f"Rank 1 in place of 8 makes no clear difference to GRPO {tenths(rank_1)[len('no clear difference '):]}")
    close = [one.p for one in adjusted.values() if one.verdict == "better"]
    assert len(close) == 5 and sum(f"{p:.3f}" == "0.049" for p in close) == 4
    said(PAGE, "Four of the table’s five better are just so (p 0.049 after the adjustment)")
    said(PAGE, "show them: here that was better")


def test_the_careless_rule_with_every_seed(stored):
    runs = stored.arms[CARELESS]
    assert len(runs) == 3 and all(mean(run.more["right"]) < 0.01 and mean(run.more["paid"]) > 0.9 for run in runs)
    right, paid = (f"{stored.accuracy(CARELESS, of).value:.3f}" for of in ("right", "paid"))
    said(PAGE, f"{right} of the drawn answers are right and {paid} are paid")
    said(PAGE, f"A careless rule ended up paying {paid} of the answers, while {right} were right")


def test_how_far_from_the_released_model(stored):
    kl = {arm: measure(stored, arm, "kl").mean(1) for arm in (GRPO, SHOWN, CARELESS)}
    mean_of = {arm: f"{runs.mean():.1f}" for arm, runs in kl.items()}
    ends = {arm: f"{runs.min():.1f} to {runs.max():.1f}" for arm, runs in kl.items()}
    honest = f"{mean_of[GRPO]} nats an answer with the honest rule (by run {ends[GRPO]})"
    said(PAGE, f"is {honest} and {mean_of[CARELESS]} with the careless one ({ends[CARELESS]}), after fewer steps")
    assert stored.difference(CARELESS, GRPO, of="kl").verdict == "no clear difference"
    assert stored.steps(CARELESS) < stored.steps(GRPO)
    for arm in kl:
        printed(PAGE, rf"{arm} .*  {mean_of[arm]} \({ends[arm]}\)\n")


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


def test_this_run_of_the_reward():
    reward, first, among = curve("reward from")
    shown = printed(PAGE, r"reward ([\d.]+) at the first step, ([\d.]+) at the last; at first ([\d.]+) among eight")
    assert shown == tuple(f"{x:.2f}" for x in (*reward[:2], among[0]))
    assert among[0] == 7 / 8
    said(PAGE, f"The green line starts at {among[0]:.2f}: for seven of the first eight sums a right answer was among")
    said(PAGE, f"The reward climbs from {reward[0]:.2f} to {reward[1]:.2f} in this run")
    assert reward[1] == first[1]
    last = [run.more["rewards"].split()[-1] for run in results.read("grpo").arms[GRPO]]
    ends = "{:.2f}, {:.2f} and {:.2f}".format(*map(float, last))
    said(PAGE, f"{reward[1]:.2f} is eight of them in one run; the three stored runs end at {ends}")
    said(PAGE, "Entropy falls from {} to {} nats a token".format(*printed(PAGE, ENTROPY)))
    rows = drawn()[1]
    assert all(answer.isdigit() for row in rows for answer in row[1].split(" · "))
    said(PAGE, "All 32 answers are bare numbers")
    assert float(rows[0][-1]) == 1 / 8 or rows[0][-1] in ("0.12", "0.13")
    said(PAGE, "to the first sum seven of the eight are wrong")


def test_this_run_of_the_careless_rule():
    rows = drawn()[2]
    given = [answer for row in rows for answer in row[1].split(" · ")]
    assert len(given) == 32 and not any(answer.isdigit() for answer in given)
    said(PAGE, "Of the 32 answers in the first table none is a number alone")
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
    said(PAGE, "all 64 answers have three tokens")
