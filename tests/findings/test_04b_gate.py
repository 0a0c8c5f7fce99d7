r"""What 04b says of the stored runs, and of its own."""

from __future__ import annotations

import math
from statistics import fmean

import pytest
from finding import once_beside, printed, said

from coursekit.experiments import results
from coursekit.experiments.results import Results

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


@pytest.fixture(scope="module")
def gate() -> Results:
    return results.read("gate")


def losses(gate: Results, arm: str) -> list[list[float]]:
    r"""Of each seed, the loss of every step."""
    return [[float(loss) for loss in run.more["losses"].split()] for run in gate.arms[arm]]


def test_a_loud_start_is_worse_with_and_without_a_gate_and_a_quiet_one_makes_no_clear_difference(gate):
    found = gate.differences(["gate from 1", "open", "open-small"], against="gate")
    assert (found["open"].verdict, found["gate from 1"].verdict) == ("worse", "worse")
    said(PAGE, f"Large prompts without a gate (a fixed 1 in its place) are {found['open']}.")
    said(PAGE, f"Behind a gate that starts at 1 they are {found['gate from 1']}.")
    assert found["open-small"].verdict == "no clear difference"
    said(PAGE, f"Small prompts without a gate make {found['open-small']}.")
    without, at_one = (round(-100 * found[arm].value) for arm in ("open", "gate from 1"))
    said(PAGE, f"Large prompts are worse without a gate (by {without} points) and behind one that starts at 1 (by "
               f"{at_one}); small prompts without a gate make {found['open-small']}")  # fmt: skip


def test_a_gate_from_1_learns_at_no_rate_although_it_moves(gate):
    own = gate.searched("gate from 1")
    rates = {run.cell.rate for run in own}
    (constant,) = {float(run.more["constant"]) for run in own}
    assert len(rates) == 6 and max(fmean(run.correct) for run in own) < constant + 0.01
    said(PAGE, f"at none of six rates from {min(rates):g} to {max(rates):g} do they learn")
    moved = [float(run.more["largest_gate"]) for run in gate.arms["gate from 1"]]
    said(
        PAGE,
        f"although the gates move (the largest to {min(moved):.1f} to {max(moved):.1f} at the best rate)",
    )
    assert gate.difference("gate from 1", "open").verdict == "no clear difference"


def test_where_the_losses_start_and_how_far_the_gate_opens(gate):
    above = [
        own[0] - float(run.more["bare"])
        for own, run in zip(losses(gate, "open"), gate.arms["open"], strict=True)
    ]
    said(PAGE, f"start {min(above):.0f} to {max(above):.0f} nats above the bare model")
    bare, quiet = [float(run.more["bare"]) for run in gate.arms["gate"]], losses(gate, "gate")
    assert all(abs(own[0] - one) < 1e-3 for own, one in zip(quiet, bare, strict=True)), (
        "the gate at just that"
    )
    first = [own[0] for own in losses(gate, "open-small")]
    assert all(abs(one - other) < 0.5 for one, other in zip(first, bare, strict=True))
    said(PAGE, f"These start at {min(first):.1f} to {max(first):.1f} nats, near the bare model's {min(bare):.1f} to "
               f"{max(bare):.1f}, the gate at just that")  # fmt: skip
    opened = [float(run.more["largest_gate"]) for run in gate.arms["gate"]]
    said(PAGE, f"it opens first, the largest to {min(opened):.3f} to {max(opened):.3f}")


def test_who_leads_when_by_the_loss(gate):
    gated, small = (
        [fmean(step) for step in zip(*losses(gate, arm), strict=True)] for arm in ("gate", "open-small")
    )
    assert [one > other for one, other in zip(gated[:11], small[:11], strict=True)] == [
        False,
        *[True] * 9,
        False,
    ]
    each = [[fmean(own[10:50]) for own in losses(gate, arm)] for arm in ("gate", "open-small")]
    assert all(one < other for one, other in zip(*each, strict=True))
    said(PAGE, "From step 2 to 10 its loss is above that of small prompts, from 11 to 50 below with every seed "
               f"({fmean(each[0]):.2f} against {fmean(each[1]):.2f} on average)")  # fmt: skip
    late = [fmean(run.loss for run in gate.arms[arm]) for arm in ("gate", "open-small")]
    said(PAGE, f"the last twenty steps have {late[0]:.2f} and {late[1]:.2f}")


def test_large_prompts_learn_that_one_of_two_words_comes_but_not_which(gate):
    late = [run.loss for run in gate.arms["open"]]
    assert min(late) > math.log(2)
    said(PAGE, f"they end at {min(late):.2f} to {max(late):.2f} nats (a coin has {math.log(2):.2f})")
    (constant,) = {float(run.more["constant"]) for run in gate.arms["open"]}
    assert gate.accuracy("open").low < constant < gate.accuracy("open").high
    said(PAGE, f"no better than the constant answer, {constant:.3f}")


def test_how_the_rates_were_found_and_on_how_many_sentences(gate):
    assert {len(run.correct) for run in gate.runs if run.correct} == {226}
    said(PAGE, "three seeds, 226 test sentences")
    assert {len({run.cell.rate for run in gate.searched(arm)}) for arm in gate.arms} == {4, 5, 6}
    said(PAGE, "the best of four to six learning rates")
    assert gate.rate("gate") == gate.rate("open-small")
    said(PAGE, f"{gate.rate('gate'):g} for the gate from 0 and the small prompts, {gate.rate('gate from 1'):g} for the "
               f"gate from 1, {gate.rate('open'):g} for the large prompts without one")  # fmt: skip
    assert set(gate.arms) == {"gate", "gate from 1", "open", "open-small"}
    said("data/evidence/gate.md", "settled: 4 of 4 arms")
    assert not any(once_beside(gate, arm) for arm in gate.arms)
    assert {run.parameters for run in gate.runs if run.cell.arm == "gate"} == {gate.parameters("open") + 28}
    said(PAGE, f"({gate.parameters('gate'):,} trained parameters with the gates)")
    untrained = results.read("decoder").accuracy("untrained").value
    said(PAGE, f"The untrained model ({untrained:.2f} on notebook 04's sentences)")


def test_the_gate_shifts_the_usable_rates_up(gate):
    gated, small = (
        {rate: [fmean(run.correct) for run in own] for rate, own in gate.whole(arm).items()}
        for arm in ("gate", "open-small")
    )
    ahead = [100 * (one - other) for one, other in zip(gated[0.01], small[0.01], strict=True)]
    behind = 100 * (fmean(small[0.001]) - fmean(gated[0.001]))
    said(PAGE, f"at 0.01 it is ahead by {min(ahead):.0f} to {max(ahead):.0f} points with each seed, at 0.001 behind by "
               f"{behind:.0f} on average")  # fmt: skip
    best = [max(own.items(), key=lambda one: fmean(one[1])) for own in (gated, small)]
    assert [rate for rate, _ in best] == [0.01, 0.001]
    said(PAGE, f"Each side's best accuracy is there: {fmean(best[0][1]):.3f} and {fmean(best[1][1]):.3f}")
