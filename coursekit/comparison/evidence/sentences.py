r"""What two arms of a file of evidence say to each other, as a sentence: written by the data, so that it stays true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from coursekit.comparison.evidence import tables
from coursekit.comparison.evidence.results import Evidence


def coverage(evidence: Evidence, labels: Mapping[str, str]) -> str:
    r"""How many of the arms have run with every seed, and which have not.

    labels: arm -> what the sentence calls it.
    """
    missing = [label for arm, label in labels.items() if arm not in evidence.arms]
    said = f"{len(labels) - len(missing)} of {len(labels)} settings have run with every seed"
    return f"{said}; not measured yet: {'; '.join(missing)}" if missing else said


def compared(evidence: Evidence, pairs: Sequence[tuple[str, str]], labels: dict[str, str]) -> list[str]:
    r"""A sentence for each pair (arm, other) of which both were run with every seed; no sentence for the others.

    labels: arm -> what the sentence calls it.
    """
    return [
        f"{labels[one]} minus {labels[other]}: {tables.answer(evidence, one, other)}"
        for one, other in pairs
        if {one, other} <= set(evidence.arms)
    ]


def standing(evidence: Evidence, arm: str, others: Sequence[str], labels: Mapping[str, str]) -> str:
    r"""Which of `others` `arm` is ahead of, behind, or not told apart from; those without all seeds are not named.

    Told apart only just, by less than `tables.NEAR`, counts as not told apart.
    """
    minus = {
        labels[other]: evidence.minus(arm, other) for other in others if {arm, other} <= set(evidence.arms)
    }
    apart = {label: gap.value for label, gap in minus.items() if tables.well_apart(gap)}
    told = {
        "ahead of": [label for label, value in apart.items() if value > 0],
        "behind": [label for label, value in apart.items() if value < 0],
        "not told apart from": [label for label in minus if label not in apart],
    }
    said = "; ".join(f"{word} {' and '.join(found)}" for word, found in told.items() if found)
    return f"{labels[arm]} is {said}" if said else f"{labels[arm]} is not compared yet: the runs are missing"


def rate_costs(evidence: Evidence, arms: Sequence[str], labels: Mapping[str, str]) -> list[str]:
    r"""For each arm its best learning rate, and how much less validation accuracy the others have that were tried, with
    the same seeds.
    """
    lines = []
    for arm in arms:
        if arm in evidence.arms:
            single, best = evidence.once(arm), evidence.rate(arm)
            at: dict[float, dict[int, float]] = {}
            for run in evidence.searched(arm):
                at.setdefault(run.cell.rate, {})[run.cell.seed] = run.validation or 0.0
            lost = [
                f"{rate:g} costs {fmean(at[best][seed] - value for seed, value in at[rate].items()):.3f}"
                f"{' (one seed)' if rate in single else ''}"
                for rate in sorted(at)
                if rate != best
            ]
            lines.append(f"{labels[arm]}: best learning rate {best:g}; {', '.join(lost)}")
    return lines
