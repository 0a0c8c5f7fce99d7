r"""What a file of evidence says, for a notebook: read from the runs alone, at each arm's best learning rate."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from coursekit.comparison.evidence import intervals
from coursekit.comparison.evidence.intervals import Interval
from coursekit.comparison.evidence.plan import Run, mean_curve
from coursekit.comparison.evidence.store import parse
from coursekit.errors import CourseError, one_of
from coursekit.paths import DATA

#: Name of the arm that is no training: the most frequent label for every sentence.
CONSTANT = "constant"


@dataclass(frozen=True)
class Evidence:
    r"""The runs of data/evidence/<topic>.csv."""

    topic: str
    runs: tuple[Run, ...]

    @cached_property
    def arms(self) -> dict[str, tuple[Run, ...]]:
        r"""Each arm's runs, one a seed: the longest, at the learning rate that is best by the mean validation accuracy
        over the seeds. An arm that is not yet run with every seed is left out.
        """
        names = list(dict.fromkeys(run.cell.arm for run in self.runs))
        return {name: best for name in names if (best := self._best(name))}

    def accuracy(self, arm: str) -> Interval:
        r"""Test accuracy, the mean over the seeds, with its 95 % interval."""
        return intervals.accuracy([run.correct for run in self._of(arm)])

    def minus(self, arm: str, other: str) -> Interval:
        r"""Test accuracy of `arm` minus that of `other`, paired by sentence, with its 95 % interval."""
        return intervals.difference(*([run.correct for run in self._of(name)] for name in (arm, other)))

    def rate(self, arm: str) -> float:
        r"""The learning rate that was best."""
        return self._of(arm)[0].cell.rate

    def steps(self, arm: str) -> int:
        r"""Steps of the runs."""
        return self._of(arm)[0].cell.steps

    def parameters(self, arm: str) -> int:
        r"""Trainable parameters, the task head with them."""
        return self._of(arm)[0].parameters

    def curve(self, arm: str) -> list[tuple[int, float]]:
        r"""(step, validation accuracy), the mean over the seeds."""
        return mean_curve(self._of(arm))

    def by_rate(self, arm: str) -> dict[float, float]:
        r"""Mean validation accuracy at each learning rate tried; far-off ones have one seed."""
        runs, found = self.searched(arm), {}
        for rate in sorted({run.cell.rate for run in runs}):
            values = [run.validation for run in runs if run.cell.rate == rate]
            found[rate] = (
                statistics.fmean(value for value in values if value is not None) if any(values) else 0.0
            )
        return found

    def searched(self, arm: str) -> list[Run]:
        r"""The runs that chose the learning rate: the shortest, since longer ones are at that rate alone."""
        runs = [run for run in self.runs if run.cell.arm == arm]
        shortest = min((run.cell.steps for run in runs), default=0)
        return [run for run in runs if run.cell.steps == shortest]

    def gain(self, arm: str) -> float | None:
        r"""What the last doubling of the steps brought in mean validation accuracy; None where nothing was doubled."""
        own = self._of(arm)
        cells = [replace(run.cell, steps=run.cell.steps // 2) for run in own]
        before = [run for run in self.runs if run.cell in cells]
        if len(before) < len(own):
            return None
        return statistics.fmean(r.validation or 0.0 for r in own) - statistics.fmean(
            r.validation or 0.0 for r in before
        )

    @property
    def minutes(self) -> float:
        r"""By the clock, all runs together."""
        return sum(run.seconds for run in self.runs) / 60

    def _of(self, arm: str) -> tuple[Run, ...]:
        one_of("arm", arm, self.arms)
        return self.arms[arm]

    def _best(self, arm: str) -> tuple[Run, ...]:
        runs = [run for run in self.runs if run.cell.arm == arm and run.correct]
        seeds = {run.cell.seed for run in self.runs}
        by: dict[tuple[int, float], list[Run]] = {}
        for run in runs:
            by.setdefault((run.cell.steps, run.cell.rate), []).append(run)
        whole: Mapping[tuple[int, float], list[Run]] = {
            key: group for key, group in by.items() if {run.cell.seed for run in group} == seeds
        }
        if not whole:
            return ()
        longest = max(steps for steps, _ in whole)
        rates = {rate: group for (steps, rate), group in whole.items() if steps == longest}
        best = max(
            sorted(rates), key=lambda rate: statistics.fmean(run.validation or 0.0 for run in rates[rate])
        )
        return tuple(sorted(rates[best], key=lambda run: run.cell.seed))


def read(topic: str) -> Evidence:
    r"""The evidence on `topic`, such as "lora". Raises CourseError where there is none."""
    file = DATA / "evidence" / f"{topic}.csv"
    if not file.exists():
        there = ", ".join(sorted(path.stem for path in file.parent.glob("*.csv"))) or "none yet"
        raise CourseError(f"no evidence on {topic!r}; there is: {there}")
    return Evidence(topic, tuple(parse(file.read_text(encoding="utf-8"), file)))
