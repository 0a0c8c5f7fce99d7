r"""What is learned and what is kept, as data/evidence/forgetting.csv has it: each remedy at several strengths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, geometric_mean, stdev

from coursekit.errors import CourseError
from coursekit.experiments import results
from coursekit.experiments.exchange import Point, curve, gap
from coursekit.experiments.table import Run
from coursekit.forgetting.domains import KINDS, OLDS, RATE, Remedy
from coursekit.notebook.tables import Table

#: A remedy and its strength; ("before", 0) is the model that has not learned the new domain yet.
Way = tuple[str, float]
#: Where every remedy starts, and all weights without a remedy, at the learning rate that the remedies have.
BEFORE, PLAIN = ("before", 0.0), ("full", RATE)
#: The strength at which the learning rate of each kind is searched. (That of `full` is its learning rate.)
SEARCHED = {"multi-task": 0.5, "replay": 0.2, "L2-SP": 0.01, "EWC": 1000.0, "LoRA": 16.0, "OFT": 32.0}
#: What the findings of notebook 01b compare with the curves of the `RIVALS`.
COMPARED: tuple[Way, ...] = (("WiSE-FT", 0.9), ("EWC", 3000.0), ("L2-SP", 0.01), ("replay", 0.5), ("LoRA", 16.0))
RIVALS = (PLAIN[0], "WiSE-FT")


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

    def without(self, *left: str | Way) -> Forgetting:
        r"""All but these remedies, whole ones or one strength of them."""
        ways = [way for way in self.new if way not in left and way[0] not in left]
        return replace(self, new={way: self.new[way] for way in ways}, old={way: self.old[way] for way in ways})

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        r"""Remedy -> `point` at each of its strengths."""
        found: dict[str, list[tuple[float, float]]] = {}
        for way in sorted(self.new):
            if way != BEFORE:
                found.setdefault(way[0], []).append(self.point(way))
        return {kind: found[kind] for kind in dict.fromkeys(kind for kind, _ in self.new) if kind in found}

    def apart(self, one: Way, other: Way) -> tuple[list[float], list[float]]:
        r"""(new, old) of `one` minus `other`, seed by seed: the two share their pre-trained model and order of rows."""
        new, old = ([a - b for a, b in zip(found[one], found[other], strict=True)] for found in (self.new, self.old))
        return new, old

    def below(
        self, way: Way, gap: Callable[[float, float, list[Point]], float] = gap, rival: str = PLAIN[0]
    ) -> list[float]:
        r"""Old domains, `way` minus the `rival` at the strength that learns as much, seed by seed.

        That strength lies between those that were run: `gap` says how. CourseError where `way` learns more than the
        best of them, or less than the worst that is on the `curve`.
        """
        strengths = [key for key in self.new if key[0] == rival]
        gaps = []
        for seed, (new, old) in enumerate(zip(self.new[way], self.old[way], strict=True)):
            points = [(self.new[key][seed], self.old[key][seed]) for key in strengths]
            (most, _), *_, (least, _) = curve(points)
            if not most <= new <= least:
                raise CourseError(
                    f"no {rival} that was run learns as much as {Remedy(*way)}: it reaches {new:.1f} with seed "
                    f"{seed}, {rival} from {most:.1f} to {least:.1f}"
                )
            gaps.append(gap(new, old, points))
        return gaps

    def against(self, ways: Iterable[Way], gap: Callable[..., float] = gap) -> Table:
        r"""How far each of `ways` lies `below` the curve of each of the `RIVALS`: lowest and highest of the seeds;
        negative is ahead.
        """
        rows = [[str(Remedy(*way)), *(self._from(rival, way, gap) for rival in RIVALS)] for way in ways]
        return Table(
            ["remedy", "from plain fine-tuning's curve", "from WiSE-FT's"],
            rows,
            note="Perplexity of the old domains: the remedy minus the curve where it learns as much, lowest and "
            "highest of the seeds; negative: the remedy is ahead. Strengths picked after the runs.",
        )

    def _from(self, rival: str, way: Way, gap: Callable[..., float]) -> str:
        try:
            return "" if way[0] == rival else _ends(self.below(way, gap, rival))
        except CourseError:
            curves = zip(*(self.new[key] for key in self.new if key[0] == rival), strict=True)
            beyond = all(new < min(curve) for new, curve in zip(self.new[way], curves, strict=True))
            return "learns more" if beyond else "–"

    def table(self) -> Table:
        r"""Where all start, then every remedy at every strength: mean ± standard deviation over the seeds."""
        rows = [
            [BEFORE[0] if way == BEFORE else str(Remedy(*way)), *(_mean(v[way]) for v in (self.new, self.old))]
            for way in self.new
        ]
        return Table(["remedy", "tweets", "old domains"], rows, note="± is the standard deviation over the seeds.")


def _ends(gaps: Iterable[float]) -> str:
    low, *_, high = sorted(gaps)
    return f"{low:+.2f} to {high:+.2f}".replace("-", "−")


def _mean(seeds: Sequence[float]) -> str:
    return f"{fmean(seeds):.1f}" + (f" ± {stdev(seeds):.1f}" if len(seeds) > 1 else "")


def searches(runs: Iterable[Run]) -> dict[str, dict[float, tuple[float, int]]]:
    r"""Kind of remedy -> learning rate -> (mean perplexity on validation text, seeds), at the kind's `SEARCHED`."""
    found: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        kind, strength = way(run)
        if kind in KINDS and strength == SEARCHED.get(kind, run.cell.rate):
            found.setdefault(kind, {}).setdefault(run.cell.rate, []).append(float(run.more["validation"]))
    return {
        kind: {rate: (fmean(seeds), len(seeds)) for rate, seeds in found[kind].items()}
        for kind in KINDS if kind in found
    }  # fmt: skip


def chosen(runs: Iterable[Run]) -> dict[str, float]:
    r"""Kind of remedy -> the learning rate with the best mean, of those that were run with every seed."""
    best = {}
    for kind, found in searches(runs).items():
        every = max(seeds for _, seeds in found.values())
        best[kind] = min((mean, rate) for rate, (mean, seeds) in found.items() if seeds == every)[1]
    return best


def way(run: Run) -> Way:
    r"""The remedy and its strength, from an arm such as "L2-SP 0.01"."""
    kind, strength = run.cell.arm.rsplit(" ", 1)
    return kind, float(strength)


def _shown(way: Way) -> Way:
    r"""As notebooks name it: what was run as "multi-task" is replay with that share, the same rows in one order."""
    return ("replay" if way[0] == "multi-task" else way[0], way[1])


def reached(run: Run) -> tuple[float, float]:
    r"""(new, old): perplexity of tweets and of the three old domains, their geometric mean."""
    return float(run.more["tweet"]), geometric_mean(float(run.more[name]) for name in OLDS)


def read() -> Forgetting:
    r"""The runs of the file, of each remedy those at its `chosen` learning rate, and all of plain fine-tuning."""
    runs, kinds = results.read("forgetting").runs, [BEFORE[0], *KINDS]
    best = chosen(runs)
    kept = [run for run in runs if (kind := way(run)[0]) not in SEARCHED or run.cell.rate == best[kind]]

    points: dict[Way, list[tuple[float, float]]] = {}
    for run in sorted(kept, key=lambda run: run.cell.seed):
        points.setdefault(_shown(way(run)), []).append(reached(run))
    ways = sorted(points, key=lambda way: (kinds.index(way[0]), way[1]))
    seeds, steps = len({run.cell.seed for run in runs}), max(run.cell.steps for run in runs)
    first = runs[0].more
    return Forgetting(
        {way: tuple(new for new, _ in points[way]) for way in ways},
        {way: tuple(old for _, old in points[way]) for way in ways},
        f"{seeds} seeds, {steps} steps of {first['batch']} blocks, {first['blocks']} test blocks of each "
        f"domain, {first['processor']}",
    )
