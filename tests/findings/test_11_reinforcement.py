r"""What 11 says of its own run."""

from __future__ import annotations

import re

import nbformat
from finding import ROOT, printed, said

PAGE = "11_reinforcement"


def shares(state: str) -> tuple[str, ...]:
    r"""Right of the drawn answers, and their first number; right of the likeliest, and its first number."""
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
    said(PAGE, f"The likeliest number was right more often than a drawn one, {before[3]} against {before[1]}")
    assert 0 <= float(after[3]) - float(after[1]) < 0.03
    more = round(64 * (float(after[3]) - float(before[3])))
    said(PAGE, f"went from {before[3]} to {after[3]}: {more} more of the 64 sums")
    said(PAGE, f"brought right answers among those drawn from {before[0]} to {after[0]}")
    said(PAGE, f"the first number of the likeliest answer rose from {before[3]} to {after[3]}")
    form, skill = float(before[1]) - float(before[0]), float(after[3]) - float(before[3])
    confidence = float(before[3]) - float(before[1])
    assert skill > form + confidence
    reward, first = curve("reward from")
    said(PAGE, f"The reward climbs from {reward[0]:.2f} to {reward[1]:.2f} in this run")
    assert reward[1] == first[1]


def test_this_run_of_the_rival():
    drawn, _, likeliest, _ = shares("shown the answers")
    said(PAGE, f"{drawn} of the drawn and {likeliest} of the likeliest are right")
    said(PAGE, f"did no worse in this run, {drawn}, in a third of the time")
    grpo = shares("GRPO")
    assert round(64 * (float(likeliest) - float(grpo[2]))) == 3 and float(drawn) > float(grpo[0])
    said(PAGE, "The distance is three sums of 64")
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


def test_the_form_that_the_rule_refuses_is_on_the_page():
    printed(PAGE, r"(5 \+ 1 = 6 .*  2  .*6 in this)")
    said(PAGE, 'the rule refuses "6 in this" as it refuses "2"')
