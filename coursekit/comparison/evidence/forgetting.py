r"""What is learned and what is kept, as data/evidence/forgetting.csv has it: each remedy at several strengths."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, geometric_mean, stdev

import numpy as np

from coursekit.errors import CourseError
from coursekit.forgetting.domains import KINDS, OLDS, RATE, Remedy
from coursekit.notebook.tables import Table
from coursekit.paths import DATA

#: A remedy and its strength; ("before", 0) is the model that has not learned the new domain yet.
Way = tuple[str, float]
#: Where every remedy starts, and all weights without a remedy, at the learning rate that the remedies have.
BEFORE, PLAIN = ("before", 0.0), ("full", RATE)
#: The strength at which the learning rate of each kind is searched. (That of `full` is its learning rate.)
SEARCHED = {"multi-task": 0.5, "replay": 0.2, "L2-SP": 0.01, "EWC": 1000.0, "LoRA": 16.0}
#: A line of the file.
Line = Mapping[str, str]


@dataclass(frozen=True)
class Forgetting:
    r"""new, old: perplexity of tweets and of the three old domains (their geometric mean), one for each seed.

    setting: steps, batch and processor, as text.
    """

    new: dict[Way, tuple[float, ...]]
    old: dict[Way, tuple[float, ...]]
    setting: str

    def point(self, way: Way) -> tuple[float, float]:
        r"""(new, old), the mean of the seeds."""
        return fmean(self.new[way]), fmean(self.old[way])

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        r"""Remedy -> `point` at each of its strengths."""
        found: dict[str, list[tuple[float, float]]] = {}
        for way in sorted(self.new):
            if way != BEFORE:
                found.setdefault(way[0], []).append(self.point(way))
        return {kind: found[kind] for kind in dict.fromkeys(kind for kind, _ in self.new) if kind in found}

    def strengths(self) -> list[tuple[str, tuple[float, float]]]:
        r"""(strength, `point`) of the remedies that were tried at several, to be written into a picture of `curves`."""
        several = {kind for kind, points in self.curves().items() if len(points) > 1}
        return [(f"{way[1]:g}", self.point(way)) for way in self.new if way[0] in several]

    def apart(self, one: Way, other: Way) -> tuple[list[float], list[float]]:
        r"""(new, old) of `one` minus `other`, seed by seed: the two share their pre-trained model and order of rows."""
        new, old = (
            [a - b for a, b in zip(found[one], found[other], strict=True)] for found in (self.new, self.old)
        )
        return new, old

    def compared(self, one: Way, other: Way) -> str:
        r"""A line with the range of `apart` over the seeds."""
        new, old = (f"{min(gaps):+.1f} to {max(gaps):+.1f}" for gaps in self.apart(one, other))
        return f"{Remedy(*one)}, minus {Remedy(*other)}: tweets {new}, old domains {old}"

    def undone(self, way: Way) -> float:
        r"""Share of what plain fine-tuning made worse in the old domains that the remedy took back."""
        plain = self.point(PLAIN)[1]
        return (plain - self.point(way)[1]) / (plain - self.point(BEFORE)[1])

    def below(self, way: Way) -> list[float]:
        r"""Old domains, `way` minus plain fine-tuning at the learning rate that learns as much, seed by seed.

        That rate lies between those that were run: straight lines in the picture with two logarithmic axes. A rate
        that another is ahead of on both axes is not on the curve. CourseError where `way` learns more than the best of
        the rates, or less than the worst.
        """
        rates = [key for key in self.new if key[0] == PLAIN[0]]
        gaps = []
        for seed, (new, old) in enumerate(zip(self.new[way], self.old[way], strict=True)):
            points = [(self.new[rate][seed], self.old[rate][seed]) for rate in rates]
            on_it = [p for p in points if not any(q[0] < p[0] and q[1] < p[1] for q in points)]
            x, y = zip(*sorted(on_it), strict=True)
            if not x[0] <= new <= x[-1]:
                raise CourseError(
                    f"no learning rate that was run learns as much as {Remedy(*way)}: it reaches {new:.1f} with seed "
                    f"{seed}, plain fine-tuning from {x[0]:.1f} to {x[-1]:.1f}"
                )
            gaps.append(old - math.exp(np.interp(math.log(new), np.log(x), np.log(y))))
        return gaps

    def table(self) -> Table:
        r"""Every remedy at every strength, mean ± standard deviation over the seeds."""
        rows = [
            [str(Remedy(*way)), *(f"{fmean(v[way]):.1f} ± {stdev(v[way]):.1f}" for v in (self.new, self.old))]
            for way in self.new if way != BEFORE
        ]  # fmt: skip
        return Table(
            ["remedy", "tweets", "old domains"], rows, note="± is the standard deviation over the seeds."
        )


def searches(runs: Iterable[Line]) -> dict[str, dict[float, tuple[float, int]]]:
    r"""Kind of remedy -> learning rate -> (mean perplexity on validation text, seeds), at the kind's `SEARCHED`."""
    found: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        kind, strength, rate = run["remedy"], float(run["strength"]), float(run["lr"])
        if kind in KINDS and strength == SEARCHED.get(kind, rate):
            found.setdefault(kind, {}).setdefault(rate, []).append(float(run["validation"]))
    return {
        kind: {rate: (fmean(seeds), len(seeds)) for rate, seeds in found[kind].items()}
        for kind in KINDS if kind in found
    }  # fmt: skip


def chosen(runs: Iterable[Line]) -> dict[str, float]:
    r"""Kind of remedy -> the learning rate with the best mean, of those that were run with every seed."""
    best = {}
    for kind, found in searches(runs).items():
        every = max(seeds for _, seeds in found.values())
        best[kind] = min((mean, rate) for rate, (mean, seeds) in found.items() if seeds == every)[1]
    return best


def lines() -> list[Line]:
    r"""The runs of the file, those of the searches among them."""
    with (DATA / "evidence" / "forgetting.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read() -> Forgetting:
    r"""The runs of the file, of each remedy those at its `chosen` learning rate, and all of plain fine-tuning."""
    runs, kinds = lines(), [BEFORE[0], *KINDS]
    best = chosen(runs)
    kept = [r for r in runs if r["remedy"] not in SEARCHED or float(r["lr"]) == best[r["remedy"]]]

    def collected(value: Callable[[Line], float]) -> dict[Way, tuple[float, ...]]:
        found: dict[Way, tuple[float, ...]] = {}
        for run in sorted(kept, key=lambda run: int(run["seed"])):
            way = run["remedy"], float(run["strength"])
            found[way] = (*found.get(way, ()), value(run))
        return dict(sorted(found.items(), key=lambda item: (kinds.index(item[0][0]), item[0][1])))

    seeds, first = len({run["seed"] for run in runs}), runs[0]
    return Forgetting(
        collected(lambda run: float(run["tweet"])),
        collected(lambda run: geometric_mean(float(run[name]) for name in OLDS)),
        f"{seeds} seeds, {first['steps']} steps of {first['batch']} blocks, {first['blocks']} test blocks of each "
        f"domain, {first['processor']}",
    )
