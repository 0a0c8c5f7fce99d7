r"""Examples in the prompt against examples in training, as data/evidence/in_context.csv has them.

The file keeps how many sentences each run got right and not which, so differences are not paired by sentence.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, median

import torch

from coursekit.comparison.evidence import tables
from coursekit.comparison.evidence.intervals import Interval
from coursekit.evaluation.scores import Score
from coursekit.notebook.tables import Table
from coursekit.paths import DATA

#: How the examples were given ("shots": in the prompt, or "LoRA"), and how many.
Way = tuple[str, int]


@dataclass(frozen=True)
class InContext:
    r"""shares: of right answers, one for each seed. sentences: on how many test sentences. tokens: of a query."""

    shares: dict[Way, tuple[float, ...]]
    sentences: int
    tokens: dict[Way, float] = field(default_factory=dict)

    def scores(self, way: str) -> dict[int, list[Score]]:
        r"""Number of examples -> the score of each seed."""
        order = torch.arange(self.sentences)
        return {
            n: [Score.of(order < round(share * self.sentences)) for share in shares]
            for (one, n), shares in sorted(self.shares.items()) if one == way
        }  # fmt: skip

    def compared(self, one: Way, other: Way) -> str:
        r"""A sentence on whether `one` and `other` differ."""
        return f"{_named(one)} minus {_named(other)}: {tables.words(self.difference(one, other))}"

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
    tokens: dict[Way, list[float]] = {}
    with (DATA / "evidence" / "in_context.csv").open(newline="", encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    for run in runs:
        way, n = (run["way"], int(run["examples"])), int(run["sentences"])
        found[way] = (*found.get(way, ()), int(run["correct"]) / n)
        tokens.setdefault(way, []).append(float(run["tokens"]))
    sentences = min(int(run["sentences"]) for run in runs)
    return InContext(found, sentences, {way: median(v) for way, v in tokens.items()})


def _named(way: Way) -> str:
    return f"{way[1]:,} in the prompt" if way[0] == "shots" else f"{way[0]} on {way[1]:,}"
