r"""What 11 says of the stored runs, and of its own."""

from __future__ import annotations

import re
import statistics

import nbformat
import pytest
from finding import ROOT, printed, said

from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import Results

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
#: (one arm, another, the measure): the seven comparisons of section 4.
ASKED = [(GRPO, BEFORE, "right"), (GRPO, BEFORE, ""), (GRPO, BEFORE, "eight")]
ASKED += [(SHOWN, GRPO, "right"), (SHOWN, GRPO, ""), (SHOWN, GRPO, "eight"), (SHOWN, BEFORE, "eight")]


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
    said(PAGE, f"Among the drawn answers GRPO is better by {points(drawn)} than the released model")
    said(PAGE, f"{share(stored, GRPO, 'right')} of them are right, {share(stored, BEFORE, 'right')} were")
    said(PAGE, f"Eight steps made drawn answers better by {points(drawn)}")
    said(PAGE, f"By its first number GRPO's likeliest answer is better by {points(likeliest)}")
    said(PAGE, f"right first number for {share(stored, BEFORE, 'eight')} of the sums already")
    scope = among.in_points().split("(")[1].strip(")")
    said(PAGE, f"Among eight of the trained model it is {share(stored, GRPO, 'eight')}: no clear difference ({scope} p")
    said(PAGE, f"Among eight draws there is no clear difference ({scope})")
    assert stored.accuracy(BEFORE, of="eight").value > stored.accuracy(GRPO).value  # it chose better among the eight


def test_the_parts_add_up_and_choice_is_the_largest(stored):
    measures = ("right", "first", "", "eight")
    ends = [[0.0, *(stored.accuracy(arm, of=of).value for of in measures), 1.0] for arm in (BEFORE, GRPO)]
    before, after = ([end - start for start, end in zip(own, own[1:], strict=False)] for own in ends)
    assert min(before + after) >= 0, "each measure is less strict than the one before"
    form, confidence, choice, new = (100 * (b - a) for b, a in zip(before[1:], after[1:], strict=True))
    for name, gained in (("Form", form), ("Confidence", confidence), ("Choice", choice)):
        said(PAGE, f"{name}, {gained:.1f}")
    said(PAGE, f"New skill? The last {new:.1f}")
    shown = printed(PAGE, r"GRPO's points: .*?form': '([\d.]+)'.*?'([\d.]+)'.*choice': '([\d.]+)'.*'([\d.]+)'}")
    assert shown == tuple(f"{gained:.1f}" for gained in (form, confidence, choice, new))
    assert choice > max(form, confidence, new) > 0
    said(PAGE, f"Choice, {choice:.1f}, the largest part")
    said(PAGE, "The largest part in these runs is choice")
    whole, first, sure = ([own[i] for own in ends] for i in (1, 2, 3))
    said(PAGE, f"right in {first[0]:.2f} of the cases before, the whole line in {whole[0]:.2f}")
    said(PAGE, f"now it is {first[1]:.2f} and {whole[1]:.2f}")
    said(PAGE, f"more often than a drawn one, {sure[0]:.2f} against {first[0]:.2f}; now it is {sure[1]:.2f} against")


def test_the_rival_is_ahead_and_not_clearly(stored, adjusted):
    found = list(adjusted.values())
    assert [one.verdict == "better" for one in found] == [True, True, *[False] * 5]
    assert all(one.value > 0 and one.verdict == "no clear difference" for one in found[3:]) and found[0].family == 7
    said(PAGE, "by every measure and by none clearly, once corrected for the table's seven comparisons.")
    among = [share(stored, arm, "eight") for arm in (SHOWN, BEFORE)]
    more = points(found[6]).replace("points", "points more")
    said(PAGE, f"{among[0]} among eight answers, against {among[1]} as released, are {more}, after the correction no c")
    (times,) = printed(PAGE, r"GRPO takes ([\d.]+) times as long")
    assert round(float(times)) == 3
    said(PAGE, "The rival did no worse, in this run in a third of the time")
    said(PAGE, "Showing the right answers did no worse, in this run in a third of the time")


def test_the_careless_rule_with_every_seed(stored):
    runs = stored.arms[CARELESS]
    assert len(runs) == 3 and all(mean(run.more["right"]) < 0.01 and mean(run.more["paid"]) > 0.9 for run in runs)
    right, paid = (f"{stored.accuracy(CARELESS, of).value:.3f}" for of in ("right", "paid"))
    said(PAGE, f"{right} of the drawn answers are right and {paid} are paid")
    said(PAGE, f"A careless one ended by paying {paid} of the answers, of which {right} were right")
    first, before, honest = (str(stored.accuracy(arm, "first")) for arm in (CARELESS, BEFORE, GRPO))
    said(PAGE, f"right in {first.replace(' (', ' of them (')}: too unsure to part it from the {before[:5]} before")
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
    said(PAGE, f"The green line starts at {among[0]:.2f}: for most sums the right answer was among eight")
    said(PAGE, f"The reward climbs from {reward[0]:.2f} to {reward[1]:.2f} in this run")
    assert reward[1] == first[1]
    last = statistics.fmean(float(run.more["rewards"].split()[-1]) for run in stored.arms[GRPO])
    always = share(stored, GRPO, "right")
    said(PAGE, f"the last step paid {last:.2f} on average, and on sums that stay the same {always}")
    assert all(float(run.more["rewards"].split()[-1]) < reward[1] for run in stored.arms[GRPO])
    said(PAGE, f"{reward[1]:.2f} is luck with the last eight")
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
    said(PAGE, f"every answer of the last step was paid, and {right[-1]:.2f} of them pass the rule of section 1")


def test_the_form_that_the_rule_refuses_is_on_the_page():
    printed(PAGE, r"(5 \+ 1 = 6 .* · 2 · .*6 in this)")
    said(PAGE, 'the rule refuses "6 in this" as it refuses "2"')
