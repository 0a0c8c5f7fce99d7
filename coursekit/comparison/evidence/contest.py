r"""What a contest between arms hangs on: the learning rates at which both ran, and how narrow each one's peak is."""

from __future__ import annotations

from collections.abc import Mapping

from coursekit.comparison.evidence import intervals, tables
from coursekit.comparison.evidence.results import Evidence, mean_validation
from coursekit.notebook.tables import Table


def at_rates(evidence: Evidence, one: str, other: str) -> Table:
    r"""`one` minus `other` at each learning rate that both were run at with every seed, and last each at its best.

    No rows where an arm lacks a seed.
    """
    columns = [f"{one} minus {other}", "validation accuracy", "test accuracy (95 %)"]
    if not {one, other} <= set(evidence.arms):
        return Table(columns, [])
    first, second = evidence.whole(one), evidence.whole(other)
    rows = []
    for rate in sorted({*first} & {*second}):
        test = intervals.difference(*([run.correct for run in runs[rate]] for runs in (first, second)))
        ahead = mean_validation(first[rate]) - mean_validation(second[rate])
        rows.append([f"{rate:g} for both", f"{ahead:+.3f}", tables.words(test)])
    own = f"each its own: {evidence.rate(one):g} and {evidence.rate(other):g}"
    ahead = evidence.validation(one) - evidence.validation(other)
    rows.append([own, f"{ahead:+.3f}", tables.answer(evidence, one, other)])
    return Table(columns, rows)


def at_a_shared_rate(evidence: Evidence, one: str, other: str) -> str:
    r"""Whether one learning rate for both would have named another winner than each one's own; "" where an arm lacks a
    seed, or no rate was run with both.
    """
    if not {one, other} <= set(evidence.arms):
        return ""
    first, second = evidence.whole(one), evidence.whole(other)
    shared = sorted({*first} & {*second})
    if not shared:
        return ""
    found = evidence.minus(one, other)
    leads = {rate: mean_validation(first[rate]) - mean_validation(second[rate]) for rate in shared}
    rate = max(shared, key=lambda rate: abs(leads[rate]))
    leader = one if leads[rate] > 0 else other
    chosen = f"At {rate:g} for both, validation puts {leader} ahead by {abs(leads[rate]):.3f}. "
    if not found.tells:
        return chosen + "Each at its own learning rate, the test sentences do not tell them apart."
    winner = one if found.value > 0 else other
    turns = "the other way round" if winner != leader else "the same way"
    ahead = f"{winner} is ahead by {abs(found.value):.3f}"
    return f"{chosen}Each at its own, the test sentences decide {turns}: {ahead}."


def peak(evidence: Evidence, arm: str) -> str:
    r"""Validation accuracy at the best learning rate and at those next to it; "" where the arm lacks a seed."""
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
    return f"{arm}: validation accuracy {curve[best]:.3f} at its best learning rate {best:g}, {others}"


def outdone(evidence: Evidence, arm: str, labels: Mapping[str, str]) -> list[str]:
    r"""A sentence for each of `labels` (arm -> what to call it) that trains more parameters than `arm` and is below it.

    Only where the interval leaves out 0, and the best learning rate of both was run with every seed.
    """
    if not tables.as_race(evidence, arm):
        return []
    found = []
    for larger in sorted(labels, key=lambda a: evidence.parameters(a) if a in evidence.arms else 0):
        if not tables.as_race(evidence, larger):
            continue
        times, gap = evidence.parameters(larger) / evidence.parameters(arm), evidence.minus(larger, arm)
        if times > 1 and gap.high < 0:
            found.append(
                f"{labels[larger]} trains {times:.3g} times as many parameters as {labels.get(arm, arm)} "
                f"and is below it: {tables.words(gap)}"
            )
    return found


__all__ = ["at_a_shared_rate", "at_rates", "outdone", "peak"]
