r"""Examples in the prompt against examples in training, as data/evidence/in_context.csv has them.

The file keeps how many sentences each run got right and not which, so differences are not paired by sentence.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from statistics import NormalDist, fmean

from coursekit.comparison.evidence.intervals import Interval
from coursekit.notebook.tables import Table
from coursekit.paths import DATA

#: How the examples were given ("shots": in the prompt, or "LoRA"), and how many.
Way = tuple[str, int]


@dataclass(frozen=True)
class InContext:
    r"""shares: of right answers, one for each seed. sentences: on how many test sentences. tokens: of a prompt, on
    average.
    """

    shares: dict[Way, tuple[float, ...]]
    sentences: int
    tokens: dict[Way, float] = field(default_factory=dict)

    def difference(self, one: Way, other: Way) -> Interval:
        r"""Mean accuracy of `one` minus that of `other`, with a 95 % interval over sentences (not over seeds).

        $\sqrt{p(1-p)/n + q(1-q)/n}$, as for two samples of $n$.
        """
        p, q = fmean(self.shares[one]), fmean(self.shares[other])
        margin = NormalDist().inv_cdf(0.975) * ((p * (1 - p) + q * (1 - q)) / self.sentences) ** 0.5
        return Interval(p - q, p - q - margin, p - q + margin)

    def table(self) -> Table:
        r"""Accuracy for each number of examples, in the prompt and in training."""
        rows = [
            [n, *(self._mean((way, n)) for way in ("shots", "LoRA"))]
            for n in sorted({n for _, n in self.shares})
        ]
        return Table(["examples", "in the prompt", "LoRA, mean of the seeds"], rows)

    def _mean(self, way: Way) -> str | None:
        return f"{fmean(self.shares[way]):.3f}" if way in self.shares else None


def read() -> InContext:
    r"""The runs of the file."""
    found: dict[Way, tuple[float, ...]] = {}
    with (DATA / "evidence" / "in_context.csv").open(newline="", encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    for run in runs:
        way, n = (run["way"], int(run["examples"])), int(run["sentences"])
        found[way] = (*found.get(way, ()), int(run["correct"]) / n)
    tokens = {(run["way"], int(run["examples"])): float(run["tokens"]) for run in runs}
    return InContext(found, min(int(run["sentences"]) for run in runs), tokens)
