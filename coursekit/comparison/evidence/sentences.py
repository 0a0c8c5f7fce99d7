r"""What two arms of a file of evidence say to each other, as a sentence: written by the data, so that it stays true."""

from __future__ import annotations

from collections.abc import Sequence

from coursekit.comparison.evidence import tables
from coursekit.comparison.evidence.results import Evidence


def compared(evidence: Evidence, pairs: Sequence[tuple[str, str]], labels: dict[str, str]) -> list[str]:
    r"""A sentence for each pair (arm, other) of which both were run with every seed; no sentence for the others.

    labels: arm -> what the sentence calls it.
    """
    return [
        f"{labels[one]} minus {labels[other]}: {tables.answer(evidence, one, other)}"
        for one, other in pairs
        if {one, other} <= set(evidence.arms)
    ]
