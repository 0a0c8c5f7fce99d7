r"""What a contest between arms hangs on: the learning rates at which both ran, and how narrow each one's peak is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from coursekit.comparison.evidence import intervals, tables
from coursekit.comparison.evidence.intervals import Interval
from coursekit.comparison.evidence.plan import Run
from coursekit.comparison.evidence.results import Evidence, mean_validation
from coursekit.notebook.tables import Table

#: Mean validation accuracies no further apart are the same: of 300 sentences and three seeds one answer is 0.001.
LEVEL = 5e-4


def at_rates(evidence: Evidence, one: str, other: str) -> Table:
    r"""`one` minus `other` at each learning rate that both were run at with every seed, and last each at its best.

    No rows where an arm lacks a seed.
    """
    columns = [f"{one} minus {other}", "validation accuracy", "test accuracy (95 %)"]
    if not {one, other} <= set(evidence.arms):
        return Table(columns, [])
    rows = []
    for rate, (first, second) in _at_shared_rates(evidence, one, other).items():
        ahead = mean_validation(first) - mean_validation(second)
        rows.append([f"{rate:g} for both", f"{ahead:+.3f}", tables.words(_on_test(first, second))])
    own = f"each its own: {evidence.rate(one):g} and {evidence.rate(other):g}"
    ahead = evidence.validation(one) - evidence.validation(other)
    rows.append([own, f"{ahead:+.3f}", tables.answer(evidence, one, other)])
    return Table(columns, rows)


def at_a_shared_rate(evidence: Evidence, one: str, other: str) -> str:
    r"""`one` minus `other` on the test sentences at one learning rate for both, and each at its own, as a sentence.

    The shared rate is the one with the best mean validation accuracy of the two together. "" where an arm lacks a seed,
    or no rate was run with both.
    """
    if not {one, other} <= set(evidence.arms):
        return ""
    shared = _at_shared_rates(evidence, one, other)
    if not shared:
        return ""
    rate = max(shared, key=lambda rate: sum(map(mean_validation, shared[rate])))
    same, own = tables.words(_on_test(*shared[rate])), tables.answer(evidence, one, other)
    return f"{one} minus {other}, test accuracy: at {rate:g} for both {same}; each at its own {own}"


def peak(evidence: Evidence, arm: str) -> str:
    r"""Validation accuracy at the best learning rate and at those next to it, and which others are level with it; ""
    where the arm lacks a seed.
    """
    if arm not in evidence.arms:
        return ""
    curve, best = evidence.by_rate(arm), evidence.rate(arm)
    rates = sorted(curve)
    at = rates.index(best)
    beside = [rate for rate in (*rates[max(0, at - 1) : at], *rates[at + 1 : at + 2])]
    if not beside:
        return ""
    once = evidence.once(arm)
    others = " and ".join(f"{curve[r]:.3f} at {r:g}" + " (one seed)" * (r in once) for r in beside)
    tie = (
        f"; level with it: {', '.join(f'{rate:g}' for rate in level)}"
        if (level := ties(evidence, arm))
        else ""
    )
    return f"{arm}: validation accuracy {curve[best]:.3f} at its best learning rate {best:g}, {others}{tie}"


def ties(evidence: Evidence, arm: str) -> list[float]:
    r"""Learning rates run with every seed between which and the best one validation cannot choose: its mean is the
    same up to rounding. [] where there is none, or the arm lacks a seed.
    """
    if arm not in evidence.arms:
        return []
    curve, best = evidence.by_rate(arm), evidence.rate(arm)
    return [
        rate
        for rate in evidence.whole(arm)
        if rate != best and math.isclose(curve[rate], curve[best], abs_tol=LEVEL)
    ]


def at_own_rates(evidence: Evidence, arm: str) -> str:
    r"""Validation and test accuracy at each learning rate that was run with every seed; "" where the arm lacks one."""
    if arm not in evidence.arms:
        return ""
    said = []
    for rate, runs in sorted(evidence.whole(arm).items()):
        test = statistics.fmean(statistics.fmean(run.correct) for run in runs)
        said.append(f"{mean_validation(runs):.3f} and {test:.3f} at {rate:g}")
    return f"{arm}, validation and test accuracy: {', '.join(said)}"


def last_rise(evidence: Evidence, arm: str) -> str:
    r"""How far validation accuracy rose between the last two points of the mean curve, and what twice the steps brought
    where that was tried; "" where the arm lacks a seed.
    """
    if arm not in evidence.arms or len(curve := evidence.curve(arm)) < 2:
        return ""
    (before, one), (after, other) = curve[-2:]
    longer = (
        "" if (gain := evidence.gain(arm)) is None else f"; with twice the steps it ends {gain:+.3f} higher"
    )
    return f"{arm}: validation accuracy {other - one:+.3f} from step {before} to step {after}{longer}"


def larger(evidence: Evidence, arm: str, labels: Mapping[str, str]) -> list[str]:
    r"""A sentence for each of `labels` (arm -> what to call it) that trains more parameters than `arm`: how many times
    as many, and its difference to `arm`.

    Only where the best learning rate of both was run with every seed.
    """
    if not tables.as_race(evidence, arm):
        return []
    found = []
    for other in sorted(labels, key=lambda a: evidence.parameters(a) if a in evidence.arms else 0):
        if not tables.as_race(evidence, other):
            continue
        times = evidence.parameters(other) / evidence.parameters(arm)
        if times > 1:
            gap = tables.words(evidence.minus(other, arm))
            found.append(
                f"{labels[other]}, {times:.3g} times as many parameters, minus {labels.get(arm, arm)}: {gap}"
            )
    return found


def _at_shared_rates(
    evidence: Evidence, one: str, other: str
) -> dict[float, tuple[tuple[Run, ...], tuple[Run, ...]]]:
    r"""Learning rate -> the runs of both arms, one a seed, at each rate that both were run at with every seed."""
    first, second = evidence.whole(one), evidence.whole(other)
    return {rate: (first[rate], second[rate]) for rate in sorted({*first} & {*second})}


def _on_test(one: Sequence[Run], other: Sequence[Run]) -> Interval:
    return intervals.difference([run.correct for run in one], [run.correct for run in other])


__all__ = ["LEVEL", "at_a_shared_rate", "at_own_rates", "at_rates", "larger", "last_rise", "peak", "ties"]
