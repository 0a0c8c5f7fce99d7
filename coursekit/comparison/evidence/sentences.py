r"""What two arms of a file of evidence say to each other, as a sentence: written by the data, so that it stays true."""

from __future__ import annotations

from collections.abc import Sequence

from coursekit.comparison.evidence.results import Evidence


def compared(evidence: Evidence, pairs: Sequence[tuple[str, str]], labels: dict[str, str]) -> list[str]:
    r"""A sentence for each pair (arm, other) of which both were run with every seed; no sentence for the others.

    labels: arm -> what the sentence calls it.
    """
    return [
        _sentence(evidence, labels, one, other) for one, other in pairs if {one, other} <= set(evidence.arms)
    ]


def _sentence(evidence: Evidence, labels: dict[str, str], one: str, other: str) -> str:
    found = evidence.minus(one, other)
    range_ = f"({found.low:+.3f} to {found.high:+.3f})"
    if found.tells:
        side = "above" if found.value > 0 else "below"
        return f"{labels[one]}: {abs(found.value):.3f} {side} {labels[other]} {range_}"
    return f"{labels[one]}: not told apart from {labels[other]} {range_}"
