r"""What 11 says of its own run."""

from __future__ import annotations

import re

import nbformat
from finding import ROOT, printed, said

PAGE = "11_reinforcement"


def shares(state: str) -> tuple[str, ...]:
    r"""Right of the drawn answers, their first number, that of the likeliest, and that of one among eight."""
    return printed(PAGE, rf"{state}\s+(\d\.\d\d)\s+(\d\.\d\d)\s+(\d\.\d\d)\s+(\d\.\d\d)")


def curve(label: str) -> list[list[float]]:
    r"""The numbers behind the labels of the picture that has a line `label`, from its alt text."""
    cells = nbformat.read(ROOT / "notebooks" / f"{PAGE}.ipynb", as_version=4).cells
    alts = [
        o.get("metadata", {}).get("image/png", {}).get("alt", "") for c in cells for o in c.get("outputs", [])
    ]
    (alt,) = [alt for alt in alts if label in alt]
    return [[float(x) for x in re.findall(r"\d*\.?\d+", line)] for line in alt.split(". x:")[0].split("; ")]


def test_this_run_of_the_reward():
    before, after = shares("as released"), shares("GRPO")
    said(PAGE, f"on sums that it never saw, went from {before[0]} to {after[0]}")
    said(PAGE, f"The first number of a drawn answer was right in {before[1]} of the cases before")
    assert after[0] == after[1] and float(before[1]) > float(before[0])
    said(PAGE, "now the two columns are the same")
    said(PAGE, f"The likeliest number was right more often than a drawn one, {before[2]} against {before[1]}")
    said(PAGE, f"now it is {after[2]} against {after[1]}")
    assert 0 <= float(after[2]) - float(after[1]) < float(before[2]) - float(before[1])
    more = round(64 * (float(after[2]) - float(before[2])))
    said(PAGE, f"went from {before[2]} to {after[2]}: {more} more of the 64 sums")
    said(PAGE, f"brought right answers among those drawn from {before[0]} to {after[0]}")
    said(PAGE, f"the first number of the likeliest answer rose from {before[2]} to {after[2]}")
    form, skill = float(before[1]) - float(before[0]), float(after[2]) - float(before[2])
    confidence = float(before[2]) - float(before[1])
    assert skill > form + confidence
    assert before[3] == after[2]
    said(PAGE, f"for {before[3]} of the sums already, so much of it may be choosing better")
    assert round(64 * (float(after[3]) - float(before[3]))) == 9
    said(PAGE, f"Among eight of the trained model it is {after[3]}, nine sums more")
    said(PAGE, f"went from {before[3]} to {after[3]} of the sums among eight draws")
    reward, first, among = curve("reward from")
    said(PAGE, f"It starts at {among[0]:.2f}: for most sums the right answer was among them")
    said(PAGE, f"The reward climbs from {reward[0]:.2f} to {reward[1]:.2f} in this run")
    assert reward[1] == first[1]


def test_this_run_of_the_rival():
    drawn, _, likeliest, _ = shares("shown the answers")
    said(PAGE, f"{drawn} of the drawn and {likeliest} of the likeliest are right")
    said(PAGE, f"did about as well in this run, {drawn}, in a third of the time")
    grpo = shares("GRPO")
    assert round(64 * (float(likeliest) - float(grpo[2]))) == 3 and -0.05 < float(drawn) - float(grpo[0]) < 0
    said(PAGE, "One is a little below GRPO and the other three sums of 64 above it")
    (times,) = printed(PAGE, r"GRPO takes ([\d.]+) times as long")
    assert round(float(times)) == 3
    said(PAGE, "GRPO takes about three times as long")


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


def test_the_careless_rule_on_held_out_sums():
    before, honest, careless = map(shares, ("as released", "GRPO", "careless rule"))
    said(PAGE, f"On the held-out sums {careless[0]} of the drawn answers are right")
    said(PAGE, f"in {careless[1]} of them, against {before[1]} before and {honest[1]} with the honest rule")


def test_the_form_that_the_rule_refuses_is_on_the_page():
    printed(PAGE, r"(5 \+ 1 = 6 .*  2  .*6 in this)")
    said(PAGE, 'the rule refuses "6 in this" as it refuses "2"')
