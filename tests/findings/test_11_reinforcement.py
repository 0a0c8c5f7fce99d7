r"""What 11 says of the stored runs, and of its own."""

from __future__ import annotations

import re
import statistics

import nbformat
import pytest
from finding import ROOT, printed, said

from coursekit.experiments import results
from coursekit.experiments.results import Results
from coursekit.experiments.verdict import ALPHA, holm

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
#: (one arm, another, the measure): the comparisons of section 4.
ASKED = [(GRPO, BEFORE, "right"), (GRPO, BEFORE, ""), (GRPO, BEFORE, "eight")]
ASKED += [(SHOWN, GRPO, "right"), (SHOWN, GRPO, ""), (SHOWN, GRPO, "eight")]


def test_what_the_reward_changed(stored):
    drawn, likeliest, among = (stored.difference(*one[:2], of=one[2]) for one in ASKED[:3])
    said(PAGE, f"Among the drawn answers GRPO is {drawn} than the released model")
    said(PAGE, f"{share(stored, GRPO, 'right')} of them are right, {share(stored, BEFORE, 'right')} were")
    said(PAGE, f"Eight steps made drawn answers {drawn}")
    said(PAGE, f"By the first number of the likeliest answer GRPO is {likeliest}")
    said(PAGE, f"right first number for {share(stored, BEFORE, 'eight')} of the sums already")
    assert among.verdict == "no clear difference"
    said(PAGE, f"Among eight of the trained model it is {share(stored, GRPO, 'eight')}: {among}")
    said(PAGE, "Among eight draws there is no clear difference")
    assert stored.accuracy(BEFORE, of="eight").value > stored.accuracy(GRPO).value  # it chose better among the eight


def test_form_and_confidence_are_a_small_part(stored):
    measures = ("right", "first", "")
    whole, first, sure = ([stored.accuracy(arm, of=of).value for arm in (BEFORE, GRPO)] for of in measures)
    said(PAGE, f"right in {first[0]:.2f} of the cases before, the whole line in {whole[0]:.2f}")
    said(PAGE, f"now it is {first[1]:.2f} and {whole[1]:.2f}")
    said(PAGE, f"more often than a drawn one, {sure[0]:.2f} against {first[0]:.2f}; now it is {sure[1]:.2f} against")
    assert first[1] - whole[1] < first[0] - whole[0] < sure[1] - sure[0] > sure[0] - first[0] > sure[1] - first[1]


def test_the_rival_is_ahead_and_not_clearly(stored):
    found = [stored.difference(one, other, of=of) for one, other, of in ASKED]
    adjusted = list(holm({str(i): one.p for i, one in enumerate(found)}).values())
    assert [p < ALPHA for p in adjusted] == [True, True, False, False, False, False]
    assert all(one.value > 0 for one in found[3:])
    said(PAGE, "ahead by every measure and by none clearly, once corrected for the six comparisons of this section")
    said(PAGE, f"{share(stored, SHOWN, 'right')} of the drawn and {share(stored, SHOWN)} of the likeliest are right")
    (times,) = printed(PAGE, r"GRPO takes ([\d.]+) times as long")
    assert round(float(times)) == 3
    said(PAGE, "did no worse, in a third of the time")


def test_the_careless_rule_with_every_seed(stored):
    runs = stored.arms[CARELESS]
    assert len(runs) == 3 and all(mean(run.more["right"]) < 0.01 and mean(run.more["paid"]) > 0.9 for run in runs)
    right, paid = (share(stored, CARELESS, of) for of in ("right", "paid"))
    said(PAGE, f"on the held-out sums {right} of the drawn answers are right and {paid} are paid")
    first = [share(stored, arm, "first") for arm in (CARELESS, BEFORE, GRPO)]
    said(PAGE, f"right in {first[0]} of them, against {first[1]} before and {first[2]} with the honest rule")


def mean(text: str) -> float:
    return statistics.fmean(map(float, text.split()))


def test_this_run_of_the_reward():
    reward, first, among = curve("reward from")
    said(PAGE, f"It starts at {among[0]:.2f}: for most sums the right answer was among them")
    said(PAGE, f"The reward climbs from {reward[0]:.2f} to {reward[1]:.2f} in this run")
    assert reward[1] == first[1]


def test_this_run_of_the_careless_rule():
    tables = re.findall(r"((?:\d+ \+ \d+ = \d+ .*\n?){4})", "\n".join(printed(PAGE, r"(?s)(.*)")))
    rows = [re.split(r"\s{2,}", row.strip()) for row in tables[-1].splitlines()]
    given = [answer for row in rows for answer in row[1:-2]]
    assert len(given) == 32 and not any(answer.isdigit() for answer in given)
    said(PAGE, "Of the 32 answers in the table none is a number alone")
    assert rows[0][-2:] == ["0.00", "0.00"]
    said(PAGE, "the first row, eight wrong numbers, is paid like the others")
    paid, first, right = curve("paid by the careless rule")
    assert paid[-1] == 1.0
    said(PAGE, f"every answer of the last step was paid, and {right[-1]:.2f} of them pass the rule of section 1")
    said(PAGE, f"The first number is right in {first[-1]:.2f} of the last step's answers")


def test_the_form_that_the_rule_refuses_is_on_the_page():
    printed(PAGE, r"(5 \+ 1 = 6 .*  2  .*6 in this)")
    said(PAGE, 'the rule refuses "6 in this" as it refuses "2"')
