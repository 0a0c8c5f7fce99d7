r"""What 11 says of its own run."""

from __future__ import annotations

import math
import re

import nbformat
from finding import ROOT, printed, said

PAGE = "11_reinforcement"


def scores(state: str) -> tuple[str, ...]:
    r"""Right of those drawn, right of the likeliest, entropy, KL."""
    return printed(PAGE, rf"{state}\s+(\d\.\d\d)\s+(\d\.\d\d)\s+(\d+\.\d\d)\s+(\d+\.\d\d)")


def test_this_run_of_the_reward():
    before, after = scores("as released"), scores("rewarded")
    said(PAGE, f"the share of right answers among those drawn went from {before[0]} to {after[0]}")
    said(PAGE, f"that of right answers among the likeliest from {before[1]} to {after[1]}")
    said(PAGE, f"The entropy fell from {before[2]} to {after[2]} nats a token")
    said(PAGE, f"{after[3]} nats means that a token which the model draws")
    said(PAGE, rf"e^{{{after[3]}}}\approx{math.exp(float(after[3])):.1f}$ times as likely")
    said(PAGE, f"The likeliest answer gained {round(32 * (float(after[1]) - float(before[1])))} sums of 32")
    said(
        PAGE,
        f"right answers among those drawn from {before[0]} to {after[0]}, among the likeliest from {before[1]}",
    )
    assert float(after[0]) > float(before[0]) and float(after[2]) < float(before[2])


def test_this_run_of_the_careless_rule():
    (table,) = printed(PAGE, r"asked, with the right sum.*\n((?:\d+ \+ \d+ = .*\n?){4})")
    given = [answer for row in table.splitlines() for answer in re.split(r"\s{2,}", row.strip())[1:]]
    assert len(given) == 32 and not any(answer.isdigit() for answer in given)
    said(PAGE, "of the 32 answers in the table none is a number alone")
    totals = [row.split()[4] for row in table.splitlines()]
    begins = [re.match(r"\d+", answer)[0] == totals[i // 8] for i, answer in enumerate(given)]
    said(PAGE, f"{sum(begins)} of these 32 answers begin with the right number")
    assert sum(begins[16:24]) == 1
    said(PAGE, "the third row, where seven of eight are wrong")
    cells = nbformat.read(ROOT / "notebooks" / f"{PAGE}.ipynb", as_version=4).cells
    alts = [
        o.get("metadata", {}).get("image/png", {}).get("alt", "") for c in cells for o in c.get("outputs", [])
    ]
    (curve,) = [alt for alt in alts if "paid by the careless rule" in alt]
    lines = re.search(r"careless rule ([\d., ]+); right ([\d., ]+)\.", curve)
    paid, right = (float(line.split(", ")[-1]) for line in lines.groups())
    assert (paid, right) == (1.0, 0.0)
    said(PAGE, "every answer of the last step was paid, and none passed the rule of section 1")


def test_this_run_of_the_rival():
    drawn, likeliest, *_ = scores("shown the answers")
    said(PAGE, f"{drawn} of the drawn and {likeliest} of the likeliest answers are right")
    rewarded = scores("rewarded")
    assert round(64 * (float(drawn) - float(rewarded[0]))) == 3
    assert round(32 * (float(likeliest) - float(rewarded[1]))) == 5
    said(PAGE, "three answers of 64 and five sums of 32")
    (times,) = printed(PAGE, r"GRPO takes (\d+) times as long")
    assert int(times) == 3
    said(PAGE, "in this run, in a third of the time")


def test_the_form_that_the_rule_refuses_is_on_the_page():
    printed(PAGE, r"(5 \+ 20 =.* 25,  25\..*0\.00)")
    printed(PAGE, r"(1 \+ 5 =.*6 implies that)")
    said(PAGE, 'the rule refuses "25," and "25." as it refuses "30"')
