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
    more = f"right for {share(stored, GRPO)} of the sums, {points(likeliest).replace('points', 'points more')}"
    said(PAGE, f"The likeliest answer, most of all: its first number is {more}")
    said(PAGE, f"The likeliest number is {more}")
    before, after = (share(stored, arm, "eight") for arm in (BEFORE, GRPO))
    now = f"eight draws held a right first number for {before} of the sums before and hold one for {after} now"
    said(PAGE, f"{now}, no clear difference")
    said(PAGE, "New skill is not shown")


def test_the_gain_is_where_the_likeliest_number_was_wrong(stored):
    first = measure(stored, GRPO, "first") - measure(stored, BEFORE, "first")
    was = measure(stored, BEFORE, "")
    assert (was == was[0]).all(), "the released model is the same in every run"
    wrong = was[0] == 0
    gained = f"Of the {100 * first.mean():.1f} points that drawn first numbers gained"
    here = 100 * first[:, wrong].sum() / first.numel()
    said(PAGE, f"{gained}, {here:.1f} are on the {wrong.sum()} sums where it was wrong before")
    assert here > 50 * first.mean(), "most of all"


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
    assert printed(PAGE, r"as released − GRPO (.*) points\n") == (form.in_points(),)
    said(PAGE, f"Form, {points(form)}")
    assert after[clear[0]].sum() < 0.01 * measure(stored, GRPO, "first").sum()
    said(PAGE, "now nearly every right number stands alone")
    said(PAGE, "How much of the first is choice and how much rare answers, these runs cannot tell")


def test_confidence_in_all_three_runs(stored):
    (old, was), (new, now) = ([measure(stored, arm, of) for of in ("first", "")] for arm in (BEFORE, GRPO))
    both = was * now == 1
    draws = [[x[run][own].mean().item() for run, own in enumerate(both)] for x in (old, new)]
    assert all(b < a for b, a in zip(*draws, strict=True))
    for own, b, a in zip(both, *draws, strict=True):
        printed(PAGE, rf"before and after, {own.sum()} sums:\s+{b:.2f} of the draws were right, {a:.2f} are")
    before, after = (f"{min(own):.2f} to {max(own):.2f}" for own in draws)
    said(PAGE, "Confidence, in all three runs: where the likeliest number was right before and is right now")
    said(PAGE, f"{before} of the draws were right, and {after} are")


def test_the_rival_is_better_in_the_same_time(stored, adjusted):
    longer, likeliest, _, shown, rank_1 = list(adjusted.values())[3:]
    assert longer.family == 8 and longer.verdict == likeliest.verdict == "better"
    assert shown.verdict == rank_1.verdict == "no clear difference"
    (times,) = printed(PAGE, r"GRPO takes ([\d.]+) times as long")
    assert stored.steps(LONGER) == 18 <= float(times) * stored.steps(GRPO) + 1
    same = f"For the same 64 sums, each seen once, it shows {tenths(shown)}"
    said(PAGE, f"{same}, but GRPO takes {times} times as long in this run")
    said(PAGE, f"Trained for as long, {stored.steps(LONGER)} steps over these sums, it is {tenths(longer)}")
    said(PAGE, f"In the same time, showing the right answers was {tenths(longer)}")
    said(PAGE, f"Rank 1 in place of 8 makes no clear difference to GRPO {tenths(rank_1)[len('no clear difference '):]}")
    low, high = (share(stored, f"{GRPO} at {rate:g}", "right") for rate in (6e-4, 6e-3))
    said(PAGE, f"a third of it leaves {low} of the draws right, three times as much {high}")
    said(PAGE, "show them: here that was better")


def test_the_careless_rule_with_every_seed(stored):
    runs = stored.arms[CARELESS]
    assert len(runs) == 3 and all(mean(run.more["right"]) < 0.01 and mean(run.more["paid"]) > 0.9 for run in runs)
    right, paid = (f"{stored.accuracy(CARELESS, of).value:.3f}" for of in ("right", "paid"))
    said(PAGE, f"{right} of the drawn answers are right and {paid} are paid")
    said(PAGE, f"A careless rule ended by paying {paid} of the answers, and {right} were right")


def test_how_far_from_the_released_model(stored):
    kl = {arm: measure(stored, arm, "kl").mean(1) for arm in (GRPO, SHOWN, CARELESS)}
    mean_of = {arm: f"{runs.mean():.1f}" for arm, runs in kl.items()}
    ends = f"{kl[GRPO].min():.1f} to {kl[GRPO].max():.1f}"
    honest = f"{mean_of[GRPO]} nats an answer with the honest rule (by run {ends})"
    others = f"{mean_of[SHOWN]} with shown answers and {mean_of[CARELESS]} with the careless rule"
    said(PAGE, f"is {honest}; {others} are not clearly different")
    for arm in (SHOWN, CARELESS):
        assert stored.difference(arm, GRPO, of="kl").verdict == "no clear difference"
        printed(PAGE, rf"{arm} .*  {mean_of[arm]}\n")


def test_the_first_result_has_its_baseline(stored):
    totals = [one.total for one in sums(64, 64)[1]]
    constant = max(totals.count(one) for one in totals) / len(totals)
    before, after = share(stored, BEFORE, "right"), share(stored, GRPO, "right")
    said(PAGE, f"In stored runs {before} of the draws for {len(totals)} other sums are right")
    said(PAGE, f"a constant answer is for at most {constant:.2f} of them")
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
    said(PAGE, f"{reward[1]:.2f} is eight of them in one run")
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
