r"""What 04b says of the stored runs, and of its own."""

from __future__ import annotations

import math
from statistics import fmean

from finding import once_beside, printed, said

from coursekit.experiments import results
from coursekit.training.optimizers import schedule

PAGE = "04b_gate"


def test_what_a_gate_does_to_the_loss():
    bare, shut, slight, wide = map(float, printed(
        PAGE, r"'nothing attached': (\S+), 'gate 0': (\S+), 'gate 0.04': (\S+), 'gate 1': (\S+)}"
    ))  # fmt: skip
    assert bare == shut < slight < wide - 1
    said(PAGE, f"that of the model alone, {bare:.2f} nats in this run")
    said(PAGE, f"alone, the model has {bare:.2f} nats")
    assert wide > math.log(49_152)
    said(PAGE, f"already raise it, to {slight:.2f}, and at 1 they drown the text: {wide:.2f}, more than the "
               f"{math.log(49_152):.2f} of guessing among all tokens")  # fmt: skip


def test_the_gate_is_ahead_of_loud_prompts_and_makes_no_clear_difference_to_quiet_ones():
    gate = results.read("gate")
    loud = gate.difference("gate", "open")
    assert loud.verdict == "better"
    said(PAGE, f"(a fixed 1 in its place) the gate is {loud}.")
    found = gate.difference("gate", "open-small")
    assert found.verdict == "no clear difference"
    said(PAGE, f"Against small prompts without a gate the gate makes {found}.")
    said(PAGE, f"far ahead of large prompts without one; against small prompts without one it makes {found}.")
    ahead = [one > other for one, other in zip(gate.seeds("gate"), gate.seeds("open-small"), strict=True)]
    gated, small = ([run.loss for run in gate.arms[arm]] for arm in ("gate", "open-small"))
    below = [one < other for one, other in zip(gated, small, strict=True)]
    assert ahead.count(True) == 2 and below.count(True) == 1
    said(PAGE, "ahead in two of three seeds by accuracy, in one by the loss of the last twenty steps (on average "
               f"{fmean(gated):.2f} against {fmean(small):.2f})")  # fmt: skip
    said(PAGE, f"end at {min(small):.2f} to {max(small):.2f} (mean of the last twenty steps)")
    said(PAGE, f"The gate starts at the bare model's loss and ends at {min(gated):.2f} to {max(gated):.2f}")


def test_where_the_losses_start_and_how_far_the_gate_opens():
    gate = results.read("gate")
    above = [float(r.more["losses"].split()[0]) - float(r.more["bare"]) for r in gate.arms["open"]]
    said(PAGE, f"start {min(above):.0f} to {max(above):.0f} nats above the bare model")
    gated, loud, small = (
        [fmean(step) for step in zip(*(map(float, run.more["losses"].split()) for run in gate.arms[arm]), strict=True)]
        for arm in ("gate", "open", "open-small")
    )
    said(PAGE, f"Three steps later they are at {loud[3]:.1f}, but after 100 not better than the constant answer")
    until = next(step for step, (one, other) in enumerate(zip(gated, small, strict=True)) if step and one < other)
    said(PAGE, f"until step {until} its loss is above the rival's")
    (constant,) = {float(run.more["constant"]) for run in gate.arms["open"]}
    assert gate.accuracy("open").low < constant < gate.accuracy("open").high
    said(PAGE, f"not better than the constant answer, {constant:.3f}")
    opened = [float(run.more["largest_gate"]) for run in gate.arms["gate"]]
    said(PAGE, f"the largest gate is {min(opened):.3f} to {max(opened):.3f}")


def test_how_the_rates_were_found_and_on_how_many_sentences():
    gate = results.read("gate")
    assert {len(run.correct) for run in gate.runs if run.correct} == {226}
    said(PAGE, "three seeds, 226 test sentences")
    assert {len({run.cell.rate for run in gate.searched(arm)}) for arm in ("gate", "open", "open-small")} == {4, 5}
    assert gate.rate("gate") == gate.rate("open-small")
    said(
        PAGE,
        f"{gate.rate('gate'):g} for the gate and the small prompts, {gate.rate('open'):g} for the large ones",
    )
    assert {arm for arm in gate.arms if arm.startswith("open")} == {"open", "open-small"}
    said("data/evidence/gate.md", "settled: 3 of 3 arms")
    assert not any(once_beside(gate, arm) for arm in gate.arms)
    said(PAGE, "These and the rates beside them ran with all seeds")
    best = {}
    for arm in ("gate", "open-small"):
        means = {rate: fmean(fmean(run.correct) for run in own) for rate, own in gate.whole(arm).items()}
        best[arm] = max(means, key=means.get)
        assert best[arm] != gate.rate(arm)
        best[arm] = f"({means[best[arm]]:.3f})", f"{best[arm]:g}"
    (gated, there), (small, here) = best["gate"], best["open-small"]
    said(PAGE, f"By accuracy another rate is best: {there} for the gate {gated}, {here} for the small prompts {small}")
    assert {run.parameters for run in gate.runs if run.cell.arm == "gate"} == {gate.parameters("open") + 28}
    said(PAGE, f"({gate.parameters('gate'):,} trained parameters with the gates)")


def test_a_quiet_start_is_not_told_apart_from_small_prompts():
    gate = results.read("gate")
    steps, rate = gate.steps("gate"), gate.rate("gate")
    gone = [rate * sum(schedule(step, steps, 0) for step in range(n)) for n in range(steps + 1)]
    assert next(n for n, far in enumerate(gone) if far >= 0.02) == 7
    said(PAGE, f"by about {rate:g} a step: it needs some seven steps to reach 0.02")
    assert round(1 / gone[-1]) == 7 < gone[-1] / 0.02 < 8
    said(PAGE, f"Adam moves an entry by up to {gone[-1]:.2f} in {steps} steps: a seventh of a large prompt's entry, "
               "but seven times a small one's")  # fmt: skip
    loud = gate.rate("open")
    (quiet,) = [run for run in gate.runs if run.cell.arm == "open-small" and run.cell.rate == loud]
    assert f"{fmean(quiet.correct):.3f}" == f"{float(quiet.more['constant']):.3f}"
    said(PAGE, f"at {loud:g}, the large prompts' rate, quiet small ones fail too "
               f"({fmean(quiet.correct):.3f}, one run)")  # fmt: skip


def test_small_prompts_start_near_the_bare_model():
    gate = results.read("gate")
    for arm in ("gate", "open-small"):
        for run in gate.arms[arm]:
            assert abs(float(run.more["losses"].split()[0]) - float(run.more["bare"])) < 0.5
    first = [float(run.more["losses"].split()[0]) for run in gate.arms["open-small"]]
    bare = [float(run.more["bare"]) for run in gate.arms["gate"]]
    said(PAGE, f"The small prompts start at {min(first):.1f} to {max(first):.1f} nats, near the bare model's "
               f"{min(bare):.1f} to {max(bare):.1f}")  # fmt: skip
