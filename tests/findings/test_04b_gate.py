r"""What 04b says of the stored runs, and of its own."""

from __future__ import annotations

from statistics import fmean

from finding import printed, said

from coursekit.experiments import results

PAGE = "04b_gate"


def test_what_a_gate_does_to_the_loss():
    bare, shut, slight, wide = map(float, printed(
        PAGE, r"'nothing attached': (\S+), 'gate 0': (\S+), 'gate 0.04': (\S+), 'gate 1': (\S+)}"
    ))  # fmt: skip
    assert bare == shut < slight < wide - 1
    said(PAGE, f"that of the model alone, {bare:.2f} nats in this run")
    said(PAGE, f"already raise it, to {slight:.2f}, and at 1 they drown the text: {wide:.2f}")


def test_the_gate_is_ahead_of_loud_prompts_and_behind_quiet_ones():
    gate = results.read("gate")
    said(PAGE, f"a fixed 1 in its place, the gate is {gate.difference('gate', 'open')}.")
    found = gate.difference("gate", "open-small")
    said(PAGE, f"Against small prompts without a gate the gate is {found}, in every seed by accuracy")
    value, low, high = -100 * found.value, -100 * found.high, -100 * found.low
    said(PAGE, f"{value:.1f} points ({low:.1f} to {high:.1f}) behind small prompts")
    assert all(g < small for g, small in zip(gate.seeds("gate"), gate.seeds("open-small"), strict=True))
    gated, small = ([run.loss for run in gate.arms[arm]] for arm in ("gate", "open-small"))
    assert [one > other for one, other in zip(gated, small, strict=True)].count(True) == 2
    said(PAGE, "in two of three by the loss of the last twenty steps (on average "
               f"{fmean(gated):.2f} against {fmean(small):.2f})")  # fmt: skip
    said(PAGE, f"have {min(small):.2f} to {max(small):.2f} in the last twenty steps")
    said(PAGE, f"The gate starts at the bare model's loss and has {min(gated):.2f} to {max(gated):.2f}")


def test_where_the_losses_start_and_how_far_the_gate_opens():
    gate = results.read("gate")
    above = [float(r.more["losses"].split()[0]) - float(r.more["bare"]) for r in gate.arms["open"]]
    said(PAGE, f"start {min(above):.0f} to {max(above):.0f} nats above the bare model")
    (constant,) = {float(run.more["constant"]) for run in gate.arms["open"]}
    assert gate.accuracy("open").low < constant < gate.accuracy("open").high
    said(PAGE, f"not better than the constant answer, {constant:.3f}")
    opened = [float(run.more["largest_gate"]) for run in gate.arms["gate"]]
    said(PAGE, f"the largest gate is {min(opened):.3f} to {max(opened):.3f}")


def test_how_the_rates_were_found_and_on_how_many_sentences():
    gate = results.read("gate")
    assert {len(run.correct) for run in gate.runs if run.correct} == {226}
    said(PAGE, "three seeds, 226 test sentences")
    assert {len({run.cell.rate for run in gate.searched(arm)}) for arm in gate.arms} == {4, 5}
    assert gate.rate("gate") == gate.rate("open-small")
    said(
        PAGE,
        f"{gate.rate('gate'):g} for the gate and the small prompts, {gate.rate('open'):g} for the large ones",
    )
    assert {arm for arm in gate.arms if arm.startswith("open")} == {"open", "open-small"}
    others, once = (sum(len(of(arm)) for arm in gate.arms) for of in (gate.by_rate, gate.once))
    assert 0.7 < once / (others - len(gate.arms)) < 1
    said(PAGE, "preliminary: most rates that were not chosen ran with one seed")


def test_small_prompts_start_near_the_bare_model():
    gate = results.read("gate")
    for arm in ("gate", "open-small"):
        for run in gate.arms[arm]:
            assert abs(float(run.more["losses"].split()[0]) - float(run.more["bare"])) < 0.5
    first = [float(run.more["losses"].split()[0]) for run in gate.arms["open-small"]]
    bare = [float(run.more["bare"]) for run in gate.arms["gate"]]
    said(PAGE, f"The small prompts start at {min(first):.1f} to {max(first):.1f} nats, near the bare model's "
               f"{min(bare):.1f} to {max(bare):.1f}")  # fmt: skip
