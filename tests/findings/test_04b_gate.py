r"""What 04b says of the stored runs, and of its own."""

import math
from statistics import fmean

import pytest
from finding import once_beside, printed, said

from coursekit.experiments import results
from coursekit.experiments.results import Results

PAGE = "04b_gate"


def test_what_a_gate_does_to_the_loss():
    bare, shut, slight, wide = map(float, printed(
        PAGE, r"'nothing attached': (\S+), 'gate 0': (\S+), 'gate 0.01': (\S+), 'gate 1': (\S+)}"
    ))  # fmt: skip
    assert bare == shut < slight < wide - 1
    said(PAGE, f"that of the model alone, {bare:.2f} nats in this run")
    said(PAGE, f"alone, the model has {bare:.2f} nats")
    assert wide > math.log(49_152)
    said(PAGE, f"already raise it, to {slight:.2f}, and at 1 they drown the text: {wide:.2f}, more than the "
               f"{math.log(49_152):.2f} of guessing among all tokens")  # fmt: skip


def test_one_sentence_is_learned_in_ten_steps():
    first, last = printed(PAGE, r"the loss: (\S+) nats before the first step, (\S+) before the last")
    said(PAGE, f"alone, the model has {first} nats")
    assert float(last) < 0.01 * float(first)
    said(PAGE, f"until this one sentence is learned ({last} nats in this run)")


@pytest.fixture(scope="module")
def gate() -> Results:
    return results.read("gate")


def losses(gate: Results, arm: str) -> list[list[float]]:
    r"""Of each seed, the loss of every step."""
    return [[float(loss) for loss in run.more["losses"].split()] for run in gate.arms[arm]]


def test_a_loud_start_is_worse_with_and_without_a_gate_and_a_quiet_one_makes_no_clear_difference(gate):
    found = gate.differences(["gate from 1", "open", "open-small"], against="gate")
    assert (found["open"].verdict, found["gate from 1"].verdict) == ("worse", "worse")
    assert found["open-small"].verdict == "no clear difference"
    assert round(100 * found["open"].high) == -25
    said(PAGE, f"A quiet start is what helps: without a gate large prompts are {found['open']}, small ones make no "
               "clear difference.")  # fmt: skip
    without, at_one = (round(-100 * found[arm].value) for arm in ("open", "gate from 1"))
    said(PAGE, "Behind one that starts at 1, large prompts learn at none of six rates: "
               f"worse than from 0 by {at_one} points.")  # fmt: skip
    said(PAGE, f"large prompts are worse without a gate, by {without} points, and behind one that starts at 1.")
    said(PAGE, "Small prompts without a gate make no clear difference.")


def test_a_gate_from_1_learns_at_no_rate_and_the_largest_grows(gate):
    own = gate.searched("gate from 1")
    rates = {run.cell.rate for run in own}
    (constant,) = {float(run.more["constant"]) for run in own}
    assert len(rates) == 6 and max(fmean(run.correct) for run in own) < constant + 0.01
    said("data/evidence/README.md", "at none of six rates above the constant answer by a point")
    assert gate.difference("gate from 1", "open").verdict == "no clear difference"


def test_where_the_losses_start(gate):
    bare, quiet = [float(run.more["bare"]) for run in gate.arms["gate"]], losses(gate, "gate")
    assert all(abs(own[0] - one) < 1e-3 for own, one in zip(quiet, bare, strict=True))
    first = [own[0] for own in losses(gate, "open-small")]
    assert all(abs(one - other) < 0.5 for one, other in zip(first, bare, strict=True))
    said(PAGE, f"The gate from 0 starts at it ({min(bare):.1f} to {max(bare):.1f}), small prompts near it.")


def test_a_gate_from_0_stays_small(gate):
    largest = [float(run.more["largest_gate"]) for run in gate.arms["gate"]]
    assert len(largest) == 3 and {run.cell.steps for run in gate.arms["gate"]} == {100}
    low, high = f"{min(largest):.2f}", f"{max(largest):.2f}"
    said("data/evidence/README.md", f"After 100 steps the largest of the gates from 0 is {low} to {high}.")


def test_large_prompts_learn_that_one_of_two_words_comes_but_not_which(gate):
    late = [run.loss for run in gate.arms["open"]]
    drawn = {arm: [fmean(fmean(own[i : i + 20]) for own in losses(gate, arm)) for i in range(0, 100, 20)]
             for arm in gate.arms}  # fmt: skip
    assert min(*drawn["open"], *drawn["gate from 1"]) > math.log(2) > max(drawn["gate"][-1], drawn["open-small"][-1])
    assert min(late) > math.log(2)
    first = [own[0] for own in losses(gate, "open")]
    said(PAGE, f"They start above {math.floor(min(first))} nats and end at {min(late):.2f} to {max(late):.2f}, where a "
               f"coin has {math.log(2):.2f}.")  # fmt: skip
    (constant,) = {float(run.more["constant"]) for run in gate.arms["open"]}
    assert gate.accuracy("open").low < constant < gate.accuracy("open").high
    printed(PAGE, rf"(constant answer: {constant:.3f})")


def test_how_the_rates_were_found_and_on_how_many_sentences(gate):
    assert {len(run.correct) for run in gate.runs if run.correct} == {226}
    assert printed(PAGE, "(three seeds; 226 test sentences)")
    assert {len({run.cell.rate for run in gate.searched(arm)}) for arm in gate.arms} == {4, 5, 6}
    said(PAGE, "100 steps with four sentences each, at the learning rate whose loss was lowest at the end.")
    said("data/evidence/gate.md", "the best of a search by the mean training loss of the last twenty steps")
    assert set(gate.arms) == {"gate", "gate from 1", "open", "open-small"}
    said("data/evidence/gate.md", "settled: 4 of 4 arms")
    assert not any(once_beside(gate, arm) for arm in gate.arms)
    assert {run.parameters for run in gate.runs if run.cell.arm == "gate"} == {gate.parameters("open") + 28}
    said(PAGE, "the same random prompts in the top 28 blocks")
    said(PAGE, "No gate means a fixed 1 in its place.")
    said("data/evidence/gate.md", "with a fixed 1 in its place (open)")
    said("data/evidence/gate.md", "prompts a fiftieth as large")
    said(PAGE, f"small ones are those times {1 / 50}")


def test_the_gate_shifts_the_usable_rates_up(gate):
    gated, small = (
        {rate: [fmean(run.correct) for run in own] for rate, own in gate.whole(arm).items()}
        for arm in ("gate", "open-small")
    )
    ahead = [100 * (one - other) for one, other in zip(gated[0.01], small[0.01], strict=True)]
    behind = 100 * (fmean(small[0.001]) - fmean(gated[0.001]))
    assert len(ahead) == 3
    assert gate.rate("gate") == gate.rate("open-small") < 0.01
    said("data/evidence/README.md", f"at 0.01 it is ahead of small prompts by {min(ahead):.0f} to {max(ahead):.0f} "
                                    f"points with each seed, at 0.001 behind by {behind:.0f} on average")  # fmt: skip
