r"""The card of a file of evidence: what it says, how it was made, on what, how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from coursekit.comparison.evidence.grid import Grid, derived
from coursekit.comparison.evidence.intervals import accuracy
from coursekit.comparison.evidence.plan import NOTHING, Run, Settled, settled
from coursekit.comparison.evidence.results import Evidence


def card(grid: Grid, runs: Sequence[Run], about: Mapping[str, Any], constant: float) -> str:
    r"""Markdown. about: command, task, machine, versions … by name. constant: accuracy of the best constant answer on
    those very test sentences.
    """
    evidence = Evidence(grid.topic, tuple(runs))
    found, so_far = settled(grid, runs), preliminary(evidence)
    shown = so_far | found
    lines = [
        f"# `{grid.topic}.csv`",
        "",
        "Written by the command below; not to be edited.",
        "",
        *(f"- **{name}**: {value}" for name, value in about.items()),
        f"- **seeds**: {', '.join(map(str, grid.seeds))}",
        f"- **steps**: {grid.steps} unless the table says otherwise, doubled as long as that brings "
        f"more than {NOTHING:g} of validation accuracy: {_doubled(grid, evidence)}",
        f"- **runs**: {len(runs)}, {sum(run.seconds for run in runs) / 60:.0f} minutes by the clock",
        f"- **written**: {date.today().isoformat()}",
        f"- **settled**: {len(found)} of {len(grid.arms)} arms",
        f"- **constant answer** on the same test sentences: {constant:.3f}",
        "",
        "Accuracy on the test sentences, the mean over the seeds, with its 95 % interval (sentences and seeds drawn "
        f"again), and the difference to `{grid.reference}`, paired by sentence. The learning rate is the best of its "
        "neighbours by the mean validation accuracy over the seeds. A preliminary arm has runs of "
        "every seed, and lacks a part of its search or its longer runs.",
        "",
        "| arm | learning rate | steps | parameters | accuracy | 95 % | minus reference | 95 % | notes |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            _row(shown[name], evidence, grid.reference, arm.name not in found)
            for arm in grid.arms
            for name in (arm.name, *(name for name in shown if name.startswith(derived(arm.name, ""))))
            if name in shown
        ),
    ]
    return "\n".join(lines) + "\n"


def _doubled(grid: Grid, evidence: Evidence) -> str:
    r"""How often at most, and which arms; where that is not asked here, which longer runs another topic gave."""
    doubled = {arm.name: often for arm in grid.arms if (often := grid.doublings_of(arm))}
    if not doubled:
        longer = [name for name in evidence.arms if name not in evidence.searched_arms]
        return f"not tried here{', taken over from another topic: ' * bool(longer)}{'; '.join(longer)}"
    times = f"at most {max(doubled.values())} time{'s' if max(doubled.values()) > 1 else ''}"
    return times if len(doubled) == len(grid.arms) else f"{times}, tried with {', '.join(doubled)}"


def preliminary(evidence: Evidence) -> dict[str, Settled]:
    r"""What is known so far of the arms that have runs of every seed, by name."""
    return {
        name: Settled(name, own[0].cell.rate, own[0].cell.steps, gain=None, open=False, runs=own)
        for name, own in evidence.arms.items()
    }


def _row(one: Settled, evidence: Evidence, reference: str, not_settled: bool) -> str:
    own = [run.correct for run in one.runs]
    if any(not answers for answers in own):
        return f"| {one.arm} | {one.rate:g} | {one.steps} | | failed | | | | {one.runs[0].why} |"
    level, parameters = accuracy(own), one.runs[0].parameters
    paired = "| |"
    if one.arm != reference and {one.arm, reference} <= set(evidence.arms):
        gap = evidence.minus(one.arm, reference)
        paired = f"| {gap.value:+z.3f} | {gap.low:+.3f} to {gap.high:+.3f}"
    notes = ["preliminary"] if not_settled else []
    if one.gain is not None:
        notes += [f"validation {one.gain:+.3f} by twice the steps"]
    notes += ["rate at an end of the grid"] if one.open else []
    return (
        f"| {one.arm} | {one.rate:g} | {one.steps} | {parameters:,} | {level.value:.3f} | {level.low:.3f} to "
        f"{level.high:.3f} {paired} | {', '.join(notes)} |"
    )
