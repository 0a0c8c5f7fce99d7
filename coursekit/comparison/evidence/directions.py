r"""Accuracy along so many random directions, as data/evidence/intrinsic.csv has it.

The file keeps how many sentences each run got right and not which, so differences are not paired by sentence.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from coursekit.comparison.evidence.intervals import Interval
from coursekit.paths import DATA


@dataclass(frozen=True)
class Directions:
    r"""runs: what trained ("SAID", "DID", "full", "head") -> d -> accuracy of each seed; d is 0 without directions.
    sentences: on how many test sentences.
    """

    runs: dict[str, dict[int, list[float]]]
    sentences: int

    def minus(self, one: Sequence[float], other: Sequence[float], share: float = 1.0) -> Interval:
        r"""Mean of `one` minus `share` times the mean of `other`, with a 95 % interval over sentences (not over seeds).

        $\sqrt{p(1-p)/n + s^2 q(1-q)/n}$, as for two samples of $n$.
        """
        p, q = fmean(one), fmean(other)
        variance = (p * (1 - p) + share**2 * q * (1 - q)) / self.sentences
        margin = NormalDist().inv_cdf(0.975) * variance**0.5
        return Interval(p - share * q, p - share * q - margin, p - share * q + margin)


def read() -> Directions:
    r"""The runs of the file."""
    runs: dict[str, dict[int, list[float]]] = {}
    with (DATA / "evidence" / "intrinsic.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        runs.setdefault(row["trained"], {}).setdefault(int(row["d"]), []).append(float(row["accuracy"]))
    return Directions(runs, min(int(row["sentences"]) for row in rows))
