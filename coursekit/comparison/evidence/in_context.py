r"""Examples in the prompt against examples in training, as data/evidence/in_context.csv has them.

The file keeps how many sentences each run got right and not which, so differences are not paired by sentence.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, median

import torch

from coursekit.comparison.evidence import tables
from coursekit.comparison.evidence.intervals import Interval
from coursekit.comparison.rates import best
from coursekit.evaluation.scores import Score
from coursekit.notebook.tables import Table
from coursekit.paths import DATA

#: How the examples were given, and how many.
Way = tuple[str, int]
#: In the prompt; in training, the first so many; in training, the very ones of a prompt of so many.
SHOTS, FIRST, SAME = "shots", "LoRA", "LoRA-same"
#: Runs as SAME, asked on validation sentences: they choose its learning rate.
SEARCH = "LoRA-same-search"
_LABELS = {
    SHOTS: "in the prompt",
    FIRST: "LoRA, mean of the seeds",
    SAME: "LoRA on the prompt's own, mean of the seeds",
}


@dataclass(frozen=True)
class InContext:
    r"""shares: of right answers, one for each seed. sentences: on how many test sentences. tokens: of a query.

    rates: the learning rate of what was trained; of SAME the best on validation sentences.
    """

    shares: dict[Way, tuple[float, ...]]
    sentences: int
    tokens: dict[Way, float] = field(default_factory=dict)
    rates: dict[Way, float] = field(default_factory=dict)

    def scores(self, way: str) -> dict[int, list[Score]]:
        r"""Number of examples -> the score of each seed."""
        order = torch.arange(self.sentences)
        return {
            n: [Score.of(order < round(share * self.sentences)) for share in shares]
            for (one, n), shares in sorted(self.shares.items()) if one == way
        }  # fmt: skip

    def curves(self) -> dict[str, dict[int, list[Score]]]:
        r"""What was measured, for a picture: label -> number of examples -> the score of each seed."""
        labels = {
            SHOTS: "in the prompt",
            FIRST: "in training (LoRA)",
            SAME: "in training, the prompt's own",
        }
        return {label: scores for way, label in labels.items() if (scores := self.scores(way))}

    def compared(self, one: Way, other: Way) -> str:
        r"""A sentence on whether `one` and `other` differ, or that they were not both measured."""
        there = {one, other} <= set(self.shares)
        found = tables.words(self.difference(one, other)) if there else "not measured yet"
        return f"{_named(one)} minus {_named(other)}: {found}"

    def difference(self, one: Way, other: Way) -> Interval:
        r"""Mean accuracy of `one` minus that of `other`, with a 95 % interval over sentences (not over seeds).

        $\sqrt{p(1-p)/n + q(1-q)/n}$, as for two samples of $n$.
        """
        p, q = fmean(self.shares[one]), fmean(self.shares[other])
        margin = _margin(self.sentences, p, q)
        return Interval(p - q, p - q - margin, p - q + margin)

    def table(self) -> Table:
        r"""Accuracy for each number of examples, in the prompt and in training, of what was measured."""
        ways = [way for way in _LABELS if any(one == way for one, _ in self.shares)]
        rows = [[n, *(self._mean((way, n)) for way in ways)] for n in sorted({n for _, n in self.shares})]
        return Table(["examples", *(_LABELS[way] for way in ways)], rows)

    def _mean(self, way: Way) -> str | None:
        return f"{fmean(self.shares[way]):.3f}" if way in self.shares else None


def searched(rows: Sequence[Mapping[str, str]]) -> dict[float, float]:
    r"""Learning rate -> accuracy on validation sentences, the mean over the seeds, where SAME's rate was searched."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if row["way"] == SEARCH:
            found.setdefault(float(row["lr"]), []).append(int(row["correct"]) / int(row["sentences"]))
    return {rate: fmean(shares) for rate, shares in found.items()}


def parse(rows: Sequence[Mapping[str, str]]) -> InContext:
    r"""The lines of benchmarks/in_context.py; of SAME those with the best learning rate."""
    found: dict[Way, tuple[float, ...]] = {}
    tokens: dict[Way, list[float]] = {}
    rates: dict[Way, float] = {}
    validated = searched(rows)
    for row in rows:
        way, n, rate = (row["way"], int(row["examples"])), int(row["sentences"]), float(row["lr"])
        if way[0] == SEARCH or (way[0] == SAME and rate != best(validated)):
            continue
        found[way] = (*found.get(way, ()), int(row["correct"]) / n)
        tokens.setdefault(way, []).append(float(row["tokens"]))
        if rate:
            rates[way] = rate
    sentences = min(int(row["sentences"]) for row in rows)
    return InContext(found, sentences, {way: median(v) for way, v in tokens.items()}, rates)


def read() -> InContext:
    r"""The runs of the file."""
    with (DATA / "evidence" / "in_context.csv").open(newline="", encoding="utf-8") as file:
        return parse(list(csv.DictReader(file)))


def card(rows: Sequence[Mapping[str, str]], about: Mapping[str, str]) -> str:
    r"""Markdown: what the lines are, and what they say. about: command, machine, versions … by name."""
    evidence, validated = parse(rows), searched(rows)
    tried = ", ".join(f"{rate:g} ({validated[rate]:.3f})" for rate in sorted(validated))
    lines = [
        "# `in_context.csv`: examples in the prompt against examples in training",
        "",
        "One row a run. SmolLM2-135M-Instruct grades film-review sentences in five grades.",
        "",
        *(f"- **{name}**: {value}" for name, value in about.items()),
        *([f"- **learning rates of `{SAME}`** (accuracy on validation sentences): {tried}"] if tried else []),
        "",
        _COLUMNS,
        "Accuracy on the test sentences, the mean over the seeds, with a 95 % interval over sentences:",
        "",
        "| way | examples | learning rate | seeds | accuracy | 95 % |",
        "|---|---|---|---|---|---|",
        *(_row(evidence, way) for way in sorted(evidence.shares)),
    ]
    return "\n".join(lines) + "\n"


_COLUMNS = """\
| column | meaning |
|---|---|
| `way`, `examples` | `shots`: so many examples stand in the prompt (the course's fixed ones, `Task.shots`); `LoRA`: \
the first so many of the training split were trained on (r = 8, all linear layers, a learning rate of 1e-3 that was \
not searched); `LoRA-same`: the very ones of a prompt of so many were trained on, at the learning rate that \
`LoRA-same-search` found best |
| `lr` | learning rate; 0 where nothing is trained |
| `seed` | of LoRA's start and of the order of its rows; examples in the prompt are fixed and have one |
| `steps`, `batch` | of training |
| `sentences`, `correct` | test sentences (`LoRA-same-search`: validation sentences), and how many were graded right |
| `tokens` | of a prompt, on average |
| `seconds` | for one query that shares nothing with others, mean of sixteen; whatever else the machine did is in it |
| `processor` | what it ran on |
"""


def _margin(n: int, *shares: float) -> float:
    r"""Half of the 95 % interval of a share of `n` sentences, or of the difference of two."""
    return NormalDist().inv_cdf(0.975) * (sum(p * (1 - p) for p in shares) / n) ** 0.5


def _row(evidence: InContext, way: Way) -> str:
    shares, n = evidence.shares[way], evidence.sentences
    p = fmean(shares)
    margin = _margin(n, p)
    rate = f"{evidence.rates[way]:g}" if way in evidence.rates else ""
    return (
        f"| {way[0]} | {way[1]:,} | {rate} | {len(shares)} | {p:.3f} | {p - margin:.3f} to {p + margin:.3f} |"
    )


def _named(way: Way) -> str:
    where = {SHOTS: "{} in the prompt", FIRST: "LoRA on {}", SAME: "LoRA on the prompt's {}"}
    return where[way[0]].format(f"{way[1]:,}")
