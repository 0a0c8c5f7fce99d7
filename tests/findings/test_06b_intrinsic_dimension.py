r"""What 06b says of the stored runs and of the published counts."""

from __future__ import annotations

from finding import printed, said

from coursekit import counts
from coursekit.comparison import published
from coursekit.experiments import results
from coursekit.methods import LoRA

PAGE = "06b_intrinsic_dimension"


def test_the_curve_cannot_say_whether_100_or_1000_directions_reach_ninety_per_cent():
    stored = results.read("intrinsic")
    few, more = (stored.difference(f"SAID {d}", "full", share=0.9) for d in (100, 1000))
    factors = stored.difference("SAID 1000", "DID 1000")
    most = stored.difference("SAID 10000", "full", share=0.9)
    assert {few.verdict, more.verdict, most.verdict, factors.verdict} == {"no clear difference"}
    said(PAGE, f"nor for 10,000 {str(most).removeprefix('no clear difference ')}")
    said(PAGE, f"for 100 there is {few}")
    said(PAGE, f"for 1,000 none either {str(more).removeprefix('no clear difference ')}")
    said(PAGE, f"SAID against DID at 1,000 directions, {factors}")


def test_the_longer_run_puts_the_intrinsic_dimension_at_1000_at_most():
    methods = results.read("methods")
    enough, full, head = (
        methods.difference("said", "full", share=0.9), methods.difference("said", "full"),
        methods.difference("said", "head"),
    )  # fmt: skip
    assert (enough.verdict, full.verdict, head.verdict) == ("better", "worse", "better")
    said(
        PAGE,
        f"1,000 directions are {str(enough).replace('better', 'better than 90 % of full fine-tuning', 1)}",
    )
    said(PAGE, f"They are {str(full).replace('worse', 'worse than all of full fine-tuning', 1)}")
    said(PAGE, f"and {str(head).replace('better', 'better than the head alone', 1)}")
    assert round(methods.accuracy("constant").value, 2) == 0.50


def test_thirteen_of_twenty_three_counts_round_to_what_is_printed():
    rows = [row for table in ("gpt3", "e2e", "glue") for row in published.rows(table)]
    given = [row for row in rows if row.exact is not None and not row.fitted]
    said(PAGE, f"{sum(row.agrees for row in given)} of {len(given)}. Neither LoRA row of GPT-2 does")
    gpt2 = [row for row in given if row.method == "LoRA" and row.model.startswith("GPT-2")]
    exact, printed = (" and ".join(column) for column in zip(
        *((f"{row.exact / 1e6:.2f}", row.published) for row in gpt2), strict=True
    ))  # fmt: skip
    said(PAGE, f"{exact} million by the count, where {printed} are printed")


def test_ten_thousand_times_fewer_is_9251():
    few = LoRA(r=4).count(published.split_attention("GPT-3"))
    full = counts.full(published.config("GPT-3"), "causal")
    said(
        PAGE, f"{few / 1e6:.1f} million of {full / 1e9:.1f} billion parameters, {full / few:,.0f} times fewer"
    )


def test_a_linear_probe_reaches_the_mark_without_moving_a_weight():
    both = results.read("methods", "probe")
    probe, mark = both.accuracy("probe").value, 0.9 * both.accuracy("full").value
    found = str(both.difference("probe", "full", share=0.9)).replace("better", f"better than the mark ({mark:.3f})", 1)
    said(PAGE, f"It has {probe:.3f}, {found}, with $d=0$")
    equal = str(both.difference("said", "probe")).replace("equal", "equal to it", 1)
    said(PAGE, f"The directions, with {both.accuracy('said').value:.3f}, are {equal}")
    said(PAGE, f"trained to its end, {both.parameters('probe')} numbers")
    said(PAGE, "A linear probe reaches the 90 % without moving a weight, and is equal to them for practical purposes")


def test_neither_scale_keeps_the_first_step_equal():
    (_, by_r, by_root), (_, wide_by_r, wide_by_root) = (
        map(float, printed(PAGE, rf"\n *{r} +(\d\S+) +(\d\S+) +(\d\S+)")) for r in (1, 256)
    )
    assert by_r > 2 * wide_by_r and wide_by_root > 2 * by_root
    said(PAGE, r"neither $\alpha/r$ nor $\alpha/\sqrt r$ keeps the move equal over ranks 1 to 256")


def test_rounding_is_strict_with_many_digits_and_lax_with_few():
    rows = [row for table in ("gpt3", "e2e", "glue") for row in published.rows(table) if row.exact]
    off = {(row.model, row.method, row.setting): row.exact / 1e6 / float(row.published) for row in rows}
    red = [row for row in rows if row.method == "FT" and not row.agrees]
    assert len(red) == 4 and all(abs(off[row.model, "FT", None] - 1) < 0.01 for row in red)
    (blue,) = [row for row in rows if (row.method, row.setting, row.table) == ("Adapter H", 8, "glue")]
    assert blue.agrees
    said(PAGE, f"Adapter H 8 is blue at {off[blue.model, 'Adapter H', 8]:.3f}")
    said(PAGE, "four rows of full fine-tuning (FT) are red within 1 %")
    assert {row.setting for row in rows if row.model == "GPT-3" and row.method == "LoRA" and row.agrees} == {
        1,
        8,
    }


def test_the_text_agrees_with_the_notebook_s_own_run():
    score, constant = printed(PAGE, r"accuracy with 500 directions: ([\d.]+) .*constant answer ([\d.]+)")
    said(PAGE, f"500 numbers reach {score} on 200 sentences, where the constant answer has {constant}")
