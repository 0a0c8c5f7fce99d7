r"""The card of a file of runs: what it says, how it was made, on what, how sure it is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from coursekit.experiments.recipe import Grid
from coursekit.experiments.results import CONSTANT, UNTRAINED, Results
from coursekit.experiments.search import NOTHING, Settled, settled
from coursekit.experiments.table import Run, state


def card(grid: Grid, runs: Sequence[Run], about: Mapping[str, Any], what: str) -> str:
    r"""Markdown. about: command, task, machine, versions … by name. what: the topic, in a paragraph or two."""
    found, results = settled(grid, runs), Results(grid.topic, tuple(runs))
    rejected = _rejected(runs, results, found)
    doubled = [arm.name for arm in grid.arms if (grid.doublings if arm.doublings is None else arm.doublings)]
    lines = [
        f"# `{grid.topic}.csv`",
        "",
        what.strip(),
        "",
        "Written by the command below; not to be edited.",
        "",
        *(f"- **{name}**: {value}" for name, value in about.items()),
        f"- **seeds**: {', '.join(map(str, sorted({run.cell.seed for run in runs})))}"
        + (f"; the first{' three' * (len(grid.seeds) > 1)} chose the rates" if _searched(grid) else ""),
        f"- **steps**: {grid.steps} unless the table says otherwise"
        + (f"; twice as many, as long as that brings more than {NOTHING:g} of validation accuracy, asked of "
           f"{', '.join(doubled)}" if doubled else ""),
        f"- **runs**: {len(runs)}, {sum(run.seconds for run in runs) / 60:.0f} minutes by the clock, "
        f"{rejected / 60:.0f} of them for rates that were not chosen",
        f"- **written**: {date.today().isoformat()}",
        f"- **settled**: {len(found)} of {len(grid.arms)} arms",
        "",
        *(_answers(grid, results, found) if results.arms else _measured(runs)),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _rejected(runs: Sequence[Run], results: Results, found: Mapping[str, Settled]) -> float:
    r"""Seconds at rates that were not chosen; of runs that answered nothing, in the arms that are settled."""
    if results.arms:
        chosen = sum(run.seconds for own in results.arms.values() for run in own)
        return sum(run.seconds for run in runs) - chosen
    return sum(run.seconds for run in runs if (own := found.get(run.cell.arm)) and run.cell.rate != own.rate)


def _searched(grid: Grid) -> bool:
    return any(len(arm.rates) > 1 for arm in grid.arms)


def _answers(grid: Grid, results: Results, found: Mapping[str, Settled]) -> list[str]:
    names = [arm.name for arm in grid.arms]
    order = [
        name
        for arm in dict.fromkeys((CONSTANT, UNTRAINED, *names))
        for name in results.arms
        if name == arm or name.startswith(state(arm, ""))
    ]
    minus = results.differences(order, grid.reference) if grid.reference in results.arms else {}
    ran = {run.cell.arm for run in results.runs}
    failed = {run.cell.arm: run.why for run in results.runs if run.why and run.cell.arm not in results.arms}
    return [
        "Accuracy on the test sentences, the mean over the seeds, and its difference to "
        f"`{grid.reference}` in points, with 95 % intervals over sentences and seeds; verdicts are adjusted for "
        f"{len(minus)} comparisons (Holm). "
        + (f"Each learning rate is the best of a search by {grid.judged_by}. " if _searched(grid) else "")
        + "A preliminary arm lacks a part of its search, its seeds or its longer runs.",
        "",
        "| arm | learning rate | steps | parameters | seeds | accuracy | minus reference | verdict | notes |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(name, results, minus, found, names) for name in order),
        *(f"| {name} | | | | | failed | | | {why} |" for name, why in failed.items()),
        *(
            f"| {name} | | | | | {'search not finished' if name in ran else 'not run yet'} | | | |"
            for name in names
            if name not in results.arms and name not in failed
        ),
    ]


def _measured(runs: Sequence[Run]) -> list[str]:
    r"""Of runs that answered nothing: what they measured, the mean over the seeds and its standard deviation."""
    numbers = [name for name in runs[0].more if _number(runs[0].more[name]) is not None] if runs else []
    groups: dict[tuple[str, float], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.cell.arm, run.cell.rate), []).append(run)
    lines = [f"| arm | learning rate | seeds | {' | '.join(numbers)} |", "|---" * (3 + len(numbers)) + "|"]
    for (arm, rate), own in sorted(groups.items()):
        said = []
        for name in numbers:
            values = [float(run.more[name]) for run in own]
            spread = f" ± {statistics.stdev(values):.2f}" if len(set(values)) > 1 else ""
            said.append(f"{statistics.fmean(values):.4g}{spread}")
        lines.append(f"| {arm} | {rate:g} | {len(own)} | {' | '.join(said)} |")
    return lines


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _row(
    name: str, results: Results, minus: Mapping[str, Any], found: Mapping[str, Settled], names: Sequence[str]
) -> str:
    notes = ["preliminary"] if name in names and name not in found else []
    if (one := found.get(name)) is not None:
        notes += [f"validation {one.gain:+.3f} by twice the steps"] if one.gain is not None else []
        notes += ["rate at an end of the ladder"] if one.open else []
    ranked = results.ranked(name)
    notes += [f"area under the ROC curve {ranked}"] if ranked else []
    gap = minus.get(name)
    words = ("", "") if gap is None else (gap.in_points(), str(gap.verdict))
    return (
        f"| {name} | {results.rate(name):g} | {results.steps(name)} | {results.parameters(name):,} | "
        f"{len(results.arms[name])} | {results.accuracy(name)} | {' | '.join(words)} | {', '.join(notes)} |"
    )
