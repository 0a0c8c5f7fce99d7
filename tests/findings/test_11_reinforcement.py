r"""What 11 says of the stored runs, and of its own."""

from __future__ import annotations

import re
import statistics

import nbformat
import pytest
import torch
from finding import ROOT, printed, said

from coursekit.experiments import intervals, results
from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import Results
from coursekit.experiments.verdict import holm

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
#: (one arm, another, the measure): the six comparisons of section 4.
ASKED = [(GRPO, BEFORE, "right"), (GRPO, BEFORE, ""), (GRPO, BEFORE, "eight")]
ASKED += [(SHOWN, GRPO, "right"), (SHOWN, GRPO, ""), (SHOWN, GRPO, "eight")]


@pytest.fixture(scope="module")
def adjusted(stored) -> dict[str, Difference]:
    r"""What the second table of section 4 shows."""
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
    said(PAGE, f"By its first number GRPO's likeliest answer is better by {points(likeliest)}; how much of that is ch")
    said(PAGE, f"right first number for {share(stored, BEFORE, 'eight')} of the sums")
    eight = share(stored, GRPO, "eight")
    said(PAGE, f"Among eight of the trained model it is {eight}. That need not be new skill")
    assert stored.accuracy(BEFORE, of="eight").value > stored.accuracy(GRPO).value  # it chose better among the eight


def test_what_eight_draws_lack_24_hold(stored):
    first = measure(stored, BEFORE, "first")
    assert first.shape == (3, 64), "three runs of eight draws each"
    ever = (first > 0).any(0).double().mean().item()
    assert ever > stored.accuracy(GRPO, of="eight").value
    (shown,) = printed(PAGE, r"as released, among all 24 draws of the three runs: a right number for ([\d.]+)")
    assert shown == f"{ever:.2f}"
    said(PAGE, f"24 answers that the released model drew in its three runs there is a right number for {shown} of")
    eight = share(stored, GRPO, "eight")
    said(PAGE, f"eight draws of the trained model hold a right number for {eight} of the sums, 24 of the r")
    said(PAGE, f"24 of the released one for {shown}.")


def measure(found: Results, arm: str, of: str) -> torch.Tensor:
    r"""Of each seed and sum."""
    return torch.tensor(found.scores(arm, of)).double()


#: A part of the bar -> the measures between which it lies, the less strict one last; "" is the likeliest number.
PARTS = {"right number, wrong form": ("right", "first"), "likeliest right, not drawn": ("first", "")}
PARTS |= {"right among eight, not likeliest": ("", "eight"), "none of eight right": ("eight", None)}


def part(found: Results, arm: str, name: str) -> torch.Tensor:
    strict, lax = PARTS[name]
    return (1.0 if lax is None else measure(found, arm, lax)) - measure(found, arm, strict)


def test_the_parts_add_up_and_only_form_is_sure(stored):
    measures = ("right", "first", "", "eight")
    ends = [[0.0, *(stored.accuracy(arm, of=of).value for of in measures), 1.0] for arm in (BEFORE, GRPO)]
    before, after = ([end - start for start, end in zip(own, own[1:], strict=False)] for own in ends)
    assert min(before + after) >= 0, "each measure is less strict than the one before"
    less = {name: intervals.difference(part(stored, BEFORE, name), part(stored, GRPO, name)) for name in PARTS}
    assert [100 * one.value for one in less.values()] == pytest.approx(
        [100 * (b - a) for b, a in zip(before[1:], after[1:], strict=True)]
    )
    for name, one in less.items():
        (shown,) = printed(PAGE, rf"{name} +([+−][\d.]+ \(.*\))")
        assert shown == one.in_points()
    form, draw, choice, rare = less.values()
    assert [one.low > 0 for one in less.values()] == [True, False, False, False]
    assert holm({name: one.p for name, one in less.items()})["right number, wrong form"] < 0.05
    said(PAGE, f"Form, {points(form)}")
    said(PAGE, f"The bar hides this, {draw.in_points()[1:].replace(' (', ' points (')}: more right likeliest numbers")
    said(PAGE, f"Choice, {choice.in_points()[1:]}")
    said(PAGE, f"Rare answers, {rare.in_points()[1:]}")
    whole, first = ([own[i] for own in ends] for i in (1, 2))
    said(PAGE, f"right in {first[0]:.2f} of the cases before, the whole line in {whole[0]:.2f}")
    said(PAGE, f"now it is {first[1]:.2f} and {whole[1]:.2f}")


def test_confidence_where_the_likeliest_is_right(stored):
    scores = {arm: [measure(stored, arm, of) for of in ("first", "")] for arm in (BEFORE, GRPO, SHOWN)}
    sure, runs = {}, {}
    for arm, (first, likeliest) in scores.items():
        sure[arm] = f"{confidence(first, likeliest):.2f}"
        runs[arm] = [confidence(*one) for one in zip(first, likeliest, strict=True)]
        assert printed(PAGE, rf"{arm}: where the likeliest number is right, ([\d.]+) of the drawn") == (sure[arm],)
    assert max(runs[BEFORE]) < min(runs[GRPO])
    before, after = (f"({min(runs[arm]):.2f} to {max(runs[arm]):.2f}" for arm in (BEFORE, GRPO))
    said(PAGE, f"{sure[BEFORE]} of the drawn ones were right before {before} in the three runs), and {sure[GRPO]} are")
    said(PAGE, f"{sure[GRPO]} are now {after})")
    missed = [part(stored, arm, "likeliest right, not drawn").mean() for arm in (SHOWN, BEFORE)]
    assert missed[0] > missed[1]
    said(PAGE, f"The rival's part is even wider than before, and yet it has {sure[SHOWN]}")
    generator, again = torch.Generator().manual_seed(0), []
    for _ in range(2000):  # sums and seeds drawn anew
        sums = torch.randint(64, (64,), generator=generator)
        seeds = torch.randint(3, (2, 3), generator=generator)
        one, other = ([x[own][:, sums] for x in scores[arm]] for arm, own in zip((GRPO, BEFORE), seeds, strict=True))
        again.append(confidence(*one) - confidence(*other))
    assert sorted(again)[50] > 0.05, "of 2,000 such differences 1,950 lie above"
    said(PAGE, "Two of the four changes are clear, form and confidence")


def confidence(first: torch.Tensor, likeliest: torch.Tensor) -> float:
    r"""Where the likeliest number is right: the share of the drawn ones that are."""
    return (first * likeliest).sum().item() / likeliest.sum().item()


def test_the_rival_is_ahead_and_not_clearly(stored, adjusted):
    found = list(adjusted.values())
    assert [one.verdict == "better" for one in found] == [True, True, *[False] * 4] and found[0].family == 6
    assert all(one.verdict == "no clear difference" for one in found[3:])
    ahead = [round(100 * one.value) for one in found[3:]]
    said(PAGE, f"The rival is ahead of GRPO by {min(ahead)} to {max(ahead)} points, by no measure clearly")
    said(PAGE, f"Showing the right answers was cheaper and {min(ahead)} to {max(ahead)} points ahead, by no measure c")
    (times,) = printed(PAGE, r"GRPO takes ([\d.]+) times as long")
    assert float(times) > 1.5
    said(PAGE, f"and GRPO takes {times} times as long in this run")
    assert min(ahead) > 0
    said(PAGE, "here that was cheaper, and no measure speaks for the reward")


def test_the_careless_rule_with_every_seed(stored):
    runs = stored.arms[CARELESS]
    assert len(runs) == 3 and all(mean(run.more["right"]) < 0.01 and mean(run.more["paid"]) > 0.9 for run in runs)
    right, paid = (f"{stored.accuracy(CARELESS, of).value:.3f}" for of in ("right", "paid"))
    said(PAGE, f"{right} of the drawn answers are right and {paid} are paid")
    said(PAGE, f"A careless rule ended by paying {paid} of the answers, and {right} were right")
    first, before, honest = (str(stored.accuracy(arm, "first")) for arm in (CARELESS, BEFORE, GRPO))
    said(PAGE, f"right in {first.replace(' (', ' of them (')}: too uncertain to tell it from the {before[:5]} before")
    said(PAGE, f"or from the {honest[:5]} of the honest rule")
    for arm in (BEFORE, GRPO):
        assert stored.difference(CARELESS, arm, of="first").verdict == "no clear difference"


def mean(text: str) -> float:
    return statistics.fmean(map(float, text.split()))


def drawn() -> list[list[list[str]]]:
    r"""The tables of drawn answers: as released, after GRPO, after the careless rule, after the course's own rule."""
    tables = re.findall(r"((?:\d+ \+ \d+ = \d+ .*\n?){4})", "\n".join(printed(PAGE, r"(?s)(.*)")))
    assert len(tables) == 4
    return [[re.split(r"\s{2,}", row.strip()) for row in table.splitlines()] for table in tables]


def test_this_run_of_the_reward(stored):
    reward, first, among = curve("reward from")
    shown = printed(PAGE, r"reward ([\d.]+) at the first step, ([\d.]+) at the last; at first ([\d.]+) among eight")
    assert shown == tuple(f"{x:.2f}" for x in (*reward[:2], among[0]))
    assert among[0] == 7 / 8
    said(PAGE, f"The green line starts at {among[0]:.2f}: for seven of the first eight sums a right answer was among")
    said(PAGE, f"The reward climbs from {reward[0]:.2f} to {reward[1]:.2f} in this run")
    assert reward[1] == first[1]
    said(PAGE, f"{reward[1]:.2f} is eight of them in one run")
    said(PAGE, f"In the stored runs below, {share(stored, GRPO, 'right')} of the answers to 64 held-out sums are right")
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
    said(PAGE, f"every answer of the last step was paid, and {right[-1]:.2f} of them pass the rule of section 1")


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
