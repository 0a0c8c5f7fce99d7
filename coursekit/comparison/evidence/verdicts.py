r"""What a file of evidence answers to a notebook's questions, as far as their arms have run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from coursekit.comparison.evidence.intervals import Interval
from coursekit.comparison.evidence.results import Evidence
from coursekit.comparison.evidence.tables import words


def verdicts(evidence: Evidence, asked: Mapping[str, tuple[str, ...]]) -> list[str]:
    r"""A line for each of `asked` whose arms were run with every seed; none for the others.

    asked: what is compared, in words -> two arms, of which the first is compared with the second, or four: how far the
    difference of the first two moves to that of the last two.
    """
    there = {label: arms for label, arms in asked.items() if set(arms) <= set(evidence.arms)}
    lines = []
    for label, arms in there.items():
        found = _difference(evidence, arms)
        bounds = f"below {found.low:+.3f} or above {found.high:+.3f} is ruled out"
        told = "" if found.tells else f": not told apart; {bounds}"
        lines.append(f"{label}: {found!r}{told}")
    return lines


def readings(evidence: Evidence, texts: Mapping[str, Sequence[tuple[str, ...]]]) -> list[str]:
    r"""Each of `texts` whose arms were all run with every seed, its fields filled in; none for the others.

    texts: a text with a field `{}` for each difference -> the differences, of two arms or four as in `verdicts`.
    """
    return [
        text.format(*(words(_difference(evidence, arms)) for arms in asked))
        for text, asked in texts.items()
        if {arm for arms in asked for arm in arms} <= set(evidence.arms)
    ]


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

    claimed: what somebody says it is. Where that is one of the two ends, up to rounding, the line says so.
    """
    between = times(evidence, arm, other)
    if between is None:
        return None
    at = evidence.rate(arm) / evidence.rate(other)
    best, low, high = (f"{float(f'{x:.2g}'):g}" if 0 < x < math.inf else "" for x in (at, *between))
    span = (
        f"lies between {low} and {high}"
        if low and high
        else f"is {low} or more"
        if low
        else f"is {high} or less"
    )
    end = any(math.isclose(bound, claimed, rel_tol=0.05) for bound in between)
    very_end = f" ({claimed:g} is the very end of that range)" if end else ""
    return (
        f"{best} times on the grid. Either best rate may be off by half a grid step, so the factor {span}"
        f"{very_end if low and high else ''}"
    )


def _difference(evidence: Evidence, arms: Sequence[str]) -> Interval:
    one, two, *after = arms
    return evidence.change((one, two), (after[0], after[1])) if after else evidence.minus(one, two)


def _bounds(tried: list[float], best: float) -> tuple[float, float]:
    at = tried.index(best)
    low = math.sqrt(tried[at - 1] * best) if at else 0.0
    return low, math.sqrt(best * tried[at + 1]) if at + 1 < len(tried) else math.inf
