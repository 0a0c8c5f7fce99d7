r"""What a file of evidence says, for a notebook: read from the runs alone, at each arm's best learning rate."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from coursekit.comparison.evidence import intervals
from coursekit.comparison.evidence.grid import derived, drawn
from coursekit.comparison.evidence.intervals import Interval
from coursekit.comparison.evidence.plan import Cell, Run, mean_curve
from coursekit.comparison.evidence.store import parse
from coursekit.errors import CourseError, one_of
from coursekit.paths import DATA

#: Name of the arm that is no training: the most frequent label for every sentence.
CONSTANT = "constant"
#: Name of the arm that is a decoder as it was released: it can answer before anything trains.
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Evidence:
    r"""The runs of data/evidence/<topic>.csv."""

    topic: str
    runs: tuple[Run, ...]

    @cached_property
    def arms(self) -> dict[str, tuple[Run, ...]]:
        r"""Each arm's runs, one a seed, at the learning rate that is best by the mean validation accuracy over the
        seeds. Longer runs of the same arm are an arm of their own, "lora, 600 steps": what is compared has trained
        equally long. An arm that is not yet run with every seed is left out. A state of trained models, such as pruned
        afterwards, is of the models that one would have: those at the best rate of the arm that was trained.
        """
        by: dict[str, dict[int, list[Run]]] = {}
        for run in self.runs:
            if run.correct:
                by.setdefault(run.cell.arm, {}).setdefault(run.cell.steps, []).append(run)
        found = {}
        for name, lengths in by.items():
            for steps in sorted(lengths):
                if rates := self._whole(lengths[steps]):
                    best = max(sorted(rates), key=lambda rate: mean_validation(rates[rate]))
                    found[name if steps == min(lengths) else derived(name, f"{steps} steps")] = rates[best]
        for name, parent in self._states.items():
            if name in found and parent in found:
                found[name] = self._whole(self.searched(name))[found[parent][0].cell.rate]
        return found

    @cached_property
    def searched_arms(self) -> list[str]:
        r"""Names of `arms` without those of longer runs."""
        return [name for name, runs in self.arms.items() if runs[0].cell.arm == name]

    def accuracy(self, arm: str) -> Interval:
        r"""Test accuracy, the mean over the seeds, with its 95 % interval."""
        return intervals.accuracy([run.correct for run in self._of(arm)])

    def minus(self, arm: str, other: str, share: float = 1) -> Interval:
        r"""Test accuracy of `arm` minus `share` times that of `other`, with its 95 % interval: paired by sentence, and
        by seed as well where both are states of the same trained models, or trained on the same few sentences.
        """
        if share == 1 and other < arm:  # the same draws in both directions
            back = self.minus(other, arm)
            return Interval(0.0 - back.value, 0.0 - back.high, 0.0 - back.low)
        one, two = ([run.correct for run in self._of(name)] for name in (arm, other))
        return intervals.difference(one, two, by_seed=self._by_seed(arm, other), share=share)

    def validation(self, arm: str) -> float:
        r"""Validation accuracy at the end, the mean over the seeds: what may choose an arm, since no test sentence was
        looked at.
        """
        return mean_validation(self._of(arm))

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

    def once(self, arm: str) -> list[float]:
        r"""Learning rates tried with a single seed: too far behind with it to be run again."""
        tried = Counter(run.cell.rate for run in self.searched(arm))
        return sorted(rate for rate, seeds in tried.items() if seeds == 1 < max(tried.values()))

    def change(self, before: tuple[str, str], after: tuple[str, str]) -> Interval:
        r"""How far the difference of two arms moves: that of the pair `after` minus that of the pair `before`."""
        one, other = ([[run.correct for run in self._of(arm)] for arm in pair] for pair in (before, after))
        together = self._by_seed(*before) and self._by_seed(*after)
        return intervals.change((one[0], one[1]), (other[0], other[1]), by_seed=together)

    def searched(self, arm: str) -> list[Run]:
        r"""The runs that chose the learning rate: the shortest, since longer ones are at that rate alone."""
        runs = [run for run in self.runs if run.cell.arm == arm]
        shortest = min((run.cell.steps for run in runs), default=0)
        return [run for run in runs if run.cell.steps == shortest]

    def whole(self, arm: str) -> dict[float, tuple[Run, ...]]:
        r"""Of the runs that chose the learning rate, those at rates that every seed has come through: rate -> runs."""
        return self._whole(self.searched(arm))

    def _whole(self, runs: Sequence[Run]) -> dict[float, tuple[Run, ...]]:
        seeds = {run.cell.seed for run in self.runs}
        found: dict[float, list[Run]] = {}
        for run in sorted(runs, key=lambda run: run.cell.seed):
            if run.correct:
                found.setdefault(run.cell.rate, []).append(run)
        return {rate: tuple(own) for rate, own in found.items() if {run.cell.seed for run in own} == seeds}

    def gain(self, arm: str) -> float | None:
        r"""What twice the steps brought in mean validation accuracy; None where that was not tried."""
        longer = self.arms.get(derived(arm, f"{2 * self.steps(arm)} steps"))
        return None if longer is None else mean_validation(longer) - mean_validation(self._of(arm))

    @property
    def minutes(self) -> float:
        r"""By the clock, all runs together."""
        return sum(run.seconds for run in self.runs) / 60

    def _by_seed(self, arm: str, other: str) -> bool:
        r"""Whether a seed means the same for both: the same trained model, or the same few training sentences."""
        few = drawn(arm)
        return self._trained(arm) == self._trained(other) or (few is not None and few == drawn(other))

    def _trained(self, arm: str) -> set[Cell]:
        r"""The cells that were trained for `arm`: its own, or those of the arm that it is a state of."""
        own, parent = {run.cell for run in self._of(arm)}, self._states.get(arm)
        return own if parent is None else {replace(cell, arm=parent) for cell in own}

    @cached_property
    def _states(self) -> dict[str, str]:
        r"""Each arm that was not trained itself -> the arm of whose trained models it is a state."""
        cells: dict[str, set[Cell]] = {}
        for run in self.runs:
            cells.setdefault(run.cell.arm, set()).add(run.cell)
        return {
            arm: parent
            for arm, own in cells.items()
            for parent in cells
            if arm.startswith(derived(parent, ""))
            and {replace(cell, arm=parent) for cell in own} <= cells[parent]
        }

    def _of(self, arm: str) -> tuple[Run, ...]:
        one_of("arm", arm, self.arms)
        return self.arms[arm]


def mean_validation(runs: Sequence[Run]) -> float:
    r"""Validation accuracy at the end, the mean over runs that differ in their seed; a failed one has 0."""
    return statistics.fmean(run.validation or 0.0 for run in runs)


def there(topic: str) -> bool:
    r"""Whether there is a file of evidence on `topic` yet."""
    return (DATA / "evidence" / f"{topic}.csv").exists()


def settled(topic: str) -> str | None:
    r"""What the card says of the arms whose search is at an end, such as "5 of 32 arms"; None without a card."""
    card = DATA / "evidence" / f"{topic}.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("- **settled**: ")), None)


def read(topic: str) -> Evidence:
    r"""The evidence on `topic`, such as "lora". Raises CourseError where there is none."""
    file = DATA / "evidence" / f"{topic}.csv"
    if not there(topic):
        topics = ", ".join(sorted(path.stem for path in file.parent.glob("*.csv"))) or "none yet"
        raise CourseError(f"no evidence on {topic!r}; there is: {topics}")
    return Evidence(topic, tuple(parse(file.read_text(encoding="utf-8"), file)))


def read_if_there(topic: str) -> Evidence:
    r"""As `read`; where the grid has not been run yet, evidence without a single arm."""
    return read(topic) if there(topic) else Evidence(topic, ())
