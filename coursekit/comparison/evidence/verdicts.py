r"""What a file of evidence answers to a notebook's questions, as far as their arms have run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from coursekit.comparison.evidence.intervals import Interval
from coursekit.comparison.evidence.results import Evidence
from coursekit.comparison.evidence.tables import words


def verdicts(evidence: Evidence, asked: Mapping[str, tuple[str, ...]]) -> list[str]:
    r"""A line for each of `asked` whose arms were run with every seed; none for the others.

    asked: what is compared, in words -> two arms, of which the first is compared with the second, or four: how far the
    difference of the first two moves to that of the last two.
    """
    there = {label: arms for label, arms in asked.items() if set(arms) <= set(evidence.arms)}
    return [f"{label}: {words(_difference(evidence, arms))}" for label, arms in there.items()]


def readings(evidence: Evidence, texts: Mapping[str, Sequence[tuple[str, ...]]]) -> list[str]:
    r"""Each of `texts` whose arms were all run with every seed, its fields filled in; none for the others.

    texts: a text with a field `{}` for each difference -> the differences, of two arms or four as in `verdicts`.
    """
    return [
        text.format(*(words(_difference(evidence, arms)) for arms in asked))
        for text, asked in texts.items()
        if {arm for arms in asked for arm in arms} <= set(evidence.arms)
    ]


def each_seed(evidence: Evidence, arm: str, label: str) -> list[str]:
    r"""Validation and test accuracy of each seed, a line for each learning rate that `arm` was run at with every seed;
    one of them is marked as chosen. What a mean hides: whether one seed that failed decided which rate that is.

    label: what the lines call the arm. No lines where the arm lacks a seed.
    """
    if arm not in evidence.arms:
        return []
    lines = []
    for rate, runs in sorted(evidence.whole(arm).items()):
        chosen = " (chosen)" if rate == evidence.rate(arm) else ""
        validation = ", ".join(f"{run.validation or 0.0:.3f}" for run in runs)
        test = ", ".join(f"{fmean(run.correct):.3f}" for run in runs)
        lines.append(f"{label}; learning rate {rate:g}{chosen}: validation {validation}; test {test}")
    return lines


def times(evidence: Evidence, arm: str, other: str) -> tuple[float, float] | None:
    r"""Between which two factors the best learning rate of `arm` is larger than that of `other`; None where one of them
    was not run with every seed.

    A best rate is known as far as the grid goes: nearer, on the scale of logarithms, to the rate that won than to its
    neighbours. On the edge of the grid it is open, and so is the factor (0 or infinity).
    """
    if not {arm, other} <= set(evidence.arms):
        return None
    (low, high), (least, most) = (
        _bounds(sorted(evidence.by_rate(a)), evidence.rate(a)) for a in (arm, other)
    )
    return low / most, high / least if least else math.inf


def factor(evidence: Evidence, arm: str, other: str, claimed: float) -> str | None:
    r"""How many times the best learning rate of `other` that of `arm` is: on the grid, and how far the grid leaves it
    open. None where one of them was not run with every seed.

    claimed: what somebody says it is. The line says whether that is among what is left open, or at an end of it.
    """
    between = times(evidence, arm, other)
    if between is None:
        return None
    at = evidence.rate(arm) / evidence.rate(other)
    if any(math.isclose(bound, claimed, rel_tol=0.05) for bound in between):
        place = "at the end of that"
    else:
        place = "inside" if between[0] < claimed < between[1] else "outside"
    best = float(f"{at:.2g}")
    return (
        f"{best:g} times on the grid. Either best rate may be off by half a grid step, which leaves {_span(*between)} "
        f"open: {claimed:g} is {place}"
    )


def _difference(evidence: Evidence, arms: Sequence[str]) -> Interval:
    one, two, *after = arms
    return evidence.change((one, two), (after[0], after[1])) if after else evidence.minus(one, two)


def _span(low: float, high: float) -> str:
    shortest, longest = (f"{float(f'{bound:.2g}'):g}" for bound in (low, high))
    if low and high < math.inf:
        return f"{shortest} to {longest}"
    if low:
        return f"{shortest} or more"
    return f"{longest} or less" if high < math.inf else "any factor"


def _bounds(tried: list[float], best: float) -> tuple[float, float]:
    at = tried.index(best)
    low = math.sqrt(tried[at - 1] * best) if at else 0.0
    return low, math.sqrt(best * tried[at + 1]) if at + 1 < len(tried) else math.inf
