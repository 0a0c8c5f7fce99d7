r"""What notebooks ask of a file of evidence: accuracies and differences with their intervals and verdicts.

    lora = results.read("lora")
    lora.accuracy("r=8")                       # 0.815 (0.797 to 0.833)
    print(lora.difference("r=8", "full"))      # no clear difference (−3 to +1 points)
    lora.table(["head", "r=1", "r=8"], against="full")

Every arm is read at its best learning rate by the mean validation accuracy over the grid's first three seeds, or where
no run has one by the mean training loss of the last steps; an interval uses all the seeds that ran at it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from coursekit.errors import one_of
from coursekit.experiments import intervals
from coursekit.experiments.intervals import Difference, Interval
from coursekit.experiments.search import best
from coursekit.experiments.table import Cell, Run, drawn, few, read_csv, state
from coursekit.experiments.verdict import ALPHA, MARGIN, holm
from coursekit.notebook.tables import Table
from coursekit.paths import DATA

__all__ = ["AUC", "CONSTANT", "UNTRAINED", "Results", "few", "read", "state"]

#: In the place of a column: the area under the ROC curve, of the margins that an arm's runs kept.
AUC = "AUC"
#: The arm that trains nothing: the most frequent label for every sentence.
CONSTANT = "constant"
#: The arm that is a decoder as it was released.
UNTRAINED = "untrained"
#: An arm needs the first so many seeds of its file.
SEEDS = 3


def read(*topics: str, folder: Path = DATA / "evidence") -> Results:
    r"""The runs of data/evidence/<topic>.csv; of several topics on the same sentences, so that their arms can be
    compared. Of two runs of one name the first topic's is taken.
    """
    runs: dict[Cell, Run] = {}
    for topic in topics:
        runs = {run.cell: run for run in read_csv(folder / f"{topic}.csv")} | runs
    return Results(" and ".join(topics), tuple(sorted(runs.values(), key=lambda run: run.cell)))


@dataclass(frozen=True)
class Results:
    r"""The runs of one file."""

    topic: str
    runs: tuple[Run, ...] = field(repr=False)  # a run holds thousands of answers

    @cached_property
    def arms(self) -> dict[str, tuple[Run, ...]]:
        r"""Each arm's runs, one a seed, at its best learning rate; those without their first seeds are left out.

        Longer runs of an arm are an arm of their own, "lora, 600 steps": what is compared has trained equally long. A
        state of trained models, such as pruned afterwards, is of the models that one would have: those at the best
        rate of the arm that was trained.
        """
        by: dict[str, dict[int, list[Run]]] = {}
        for run in self.runs:
            by.setdefault(run.cell.arm, {}).setdefault(run.cell.steps, []).append(run)
        found = {}
        for name, lengths in by.items():
            shortest = min(lengths)
            for steps in sorted(lengths):
                if rates := self._whole(lengths[steps]):
                    rate = best({rate: self._judged(own) for rate, own in rates.items()})
                    found[name if steps == shortest else state(name, f"{steps} steps")] = rates[rate]
        for name, parent in self._states.items():
            if name in found and parent in found:
                found[name] = self._whole(self.searched(name))[found[parent][0].cell.rate]
        return found

    def accuracy(self, arm: str, of: str = "") -> Interval:
        r"""Test accuracy, the mean over the seeds. of: what is asked in the place of accuracy: `AUC`, how often a
        positive sentence is ranked above a negative one, whatever the threshold; or the mean of a column with a number
        for each test item, such as a margin in nats.
        """
        found = intervals.accuracy(self.scores(arm, of))
        return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0)) if of == AUC else found

    def scores(self, arm: str, of: str = "") -> list[Sequence[float]]:
        r"""What `accuracy` takes the mean of: for each seed a number for each test item. of: as there."""
        runs = self._of(arm)
        if not of:
            return [run.correct for run in runs]
        if of == AUC:
            one_of("arm with margins", arm, [name for name, own in self.arms.items() if all(r.margins for r in own)])
            margins, right = np.array([run.margins for run in runs]), np.array([run.correct for run in runs])
            return list(intervals.ranking(margins, (margins[0] > 0) == right[0]))
        there = [name for name, text in runs[0].more.items() if len(text.split()) == len(runs[0].correct)]
        one_of("column with a number for each test item", of, there)
        return [[float(number) for number in run.more[of].split()] for run in runs]

    def difference(self, arm: str, other: str, share: float = 1, of: str = "") -> Difference:
        r"""Test accuracy, or what `accuracy` takes from the column `of`, of `arm` minus `share` times that of `other`:
        paired by sentence, and by seed as well where both are states of the same trained models, or trained on the same
        few sentences.
        """
        return intervals.difference(
            self.scores(arm, of), self.scores(other, of), share=share, by_seed=self._by_seed(arm, other),
            paired=self._paired(arm, other),
        )  # fmt: skip

    def differences(self, arms: Iterable[str], against: str, of: str = "") -> dict[str, Difference]:
        r"""Each of `arms` minus `against`, with Holm's p-values: one family. of: as in accuracy."""
        return _family({arm: self.difference(arm, against, of=of) for arm in arms if arm != against})

    def paired(self, pairs: Mapping[str, tuple[str, ...] | Difference]) -> dict[str, Difference]:
        r"""The first arm of each pair minus the second, with Holm's p-values. pairs: label -> two arms, and behind them
        the column where not accuracy is asked; or a difference that was computed from other scores of these runs.
        """
        found = {}
        for label, pair in pairs.items():
            found[label] = pair if isinstance(pair, Difference) else self.difference(*pair[:2], of="".join(pair[2:]))
        return _family(found)

    def table(self, arms: Sequence[str] | Mapping[str, str], against: str, of: str = "") -> Table:
        r"""A row an arm: accuracy, its difference to `against`, and the verdict. arms: names, or name -> label. of: as
        in accuracy.
        """
        labels = dict(arms) if isinstance(arms, Mapping) else {arm: arm for arm in arms}
        minus = self.differences(labels, against, of)
        rows = [
            [label, str(self.accuracy(arm, of)), *(
                (minus[arm].in_points(), str(minus[arm].verdict)) if arm in minus else ("–", "–")
            )]
            for arm, label in labels.items()
        ]  # fmt: skip
        other = labels.get(against, against)
        note = self._note({*labels, against}, len(minus))
        return Table(["", f"{of or 'test accuracy'} (95 %)", f"points, minus {other} (95 %)", "verdict"], rows, note)

    def pairs(self, pairs: Mapping[str, tuple[str, ...] | Difference], items: str = "test sentences") -> Table:
        r"""A row a pair: the first arm minus the second, and the verdict, of one family. pairs: as in `paired`.
        items: what the note calls the test items.
        """
        rows = [[label, one.in_points(), str(one.verdict)] for label, one in self.paired(pairs).items()]
        arms = {arm for pair in pairs.values() if not isinstance(pair, Difference) for arm in pair[:2]}
        note = self._note(arms, len(pairs), items)
        return Table(["", "points (95 %)", "verdict"], rows, note)

    def _note(self, arms: Iterable[str], comparisons: int, items: str = "test sentences") -> str:
        r"""The rule of judgement, under a table."""
        seeds = sorted({len(self._of(arm)) for arm in arms if self._of(arm)[0].cell.steps})
        return (
            f"95 % intervals over {items} and {' or '.join(map(str, seeds))} seeds, not adjusted for multiple "
            f"comparisons. *Equal for practical purposes*: the interval lies within ±{100 * MARGIN:.0f} points, even "
            f"if it excludes 0. *Better*, *worse*: significant at {100 * ALPHA:.0f} % after Holm's adjustment for "
            f"{comparisons} comparison{'s' * (comparisons > 1)}; an interval that excludes 0 may not suffice. "
            "Otherwise *no clear difference*."
        )

    def ranked(self, arm: str) -> Interval | None:
        r"""Accuracy of `AUC`; None where the runs kept no margins."""
        return self.accuracy(arm, AUC) if all(run.margins for run in self._of(arm)) else None

    def validation(self, arm: str) -> float:
        r"""Validation accuracy at the end, the mean over the first seeds: what may choose an arm, since no test
        sentence was looked at.
        """
        return self._judged(self._of(arm))

    def rate(self, arm: str) -> float:
        r"""The learning rate that was best."""
        return self._of(arm)[0].cell.rate

    def steps(self, arm: str) -> int:
        r"""Steps of the runs."""
        return self._of(arm)[0].cell.steps

    def parameters(self, arm: str) -> int:
        r"""Trainable parameters, the task head with them."""
        return self._of(arm)[0].parameters

    def seeds(self, arm: str) -> list[float]:
        r"""Test accuracy of each seed."""
        return [statistics.fmean(run.correct) for run in self._of(arm)]

    def by_rate(self, arm: str) -> dict[float, float]:
        r"""Mean validation accuracy at each learning rate tried, of the first seeds; far-off ones have one seed, and
        one that failed has 0.
        """
        found: dict[float, list[float]] = {}
        for run in self.searched(arm):
            if run.cell.seed in self._first_seeds:
                found.setdefault(run.cell.rate, []).append(run.validation or 0.0)
        return {rate: statistics.fmean(values) for rate, values in sorted(found.items())}

    def once(self, arm: str) -> list[float]:
        r"""Learning rates tried with a single seed: too far behind with it to be run again."""
        tried = Counter(run.cell.rate for run in self.searched(arm))
        return sorted(rate for rate, seeds in tried.items() if seeds == 1 < max(tried.values()))

    def at(self, arm: str, rate: float) -> Results:
        r"""The same runs, those of `arm` at the one learning rate `rate`: for differences at a shared rate."""
        return replace(self, runs=tuple(r for r in self.runs if r.cell.arm != arm or r.cell.rate == rate))

    def searched(self, arm: str) -> list[Run]:
        r"""The runs that chose the learning rate: the shortest."""
        runs = [run for run in self.runs if run.cell.arm == arm]
        shortest = min((run.cell.steps for run in runs), default=0)
        return [run for run in runs if run.cell.steps == shortest]

    def whole(self, arm: str) -> dict[float, tuple[Run, ...]]:
        r"""Of the runs that chose the learning rate, those at rates that the first seeds came through: rate -> runs."""
        return self._whole(self.searched(arm))

    @cached_property
    def _first_seeds(self) -> set[int]:
        return set(sorted({run.cell.seed for run in self.runs})[:SEEDS])

    def _judged(self, runs: Sequence[Run]) -> float:
        own = [run for run in runs if run.cell.seed in self._first_seeds]
        losses = [run.loss for run in own if run.loss is not None]
        if len(losses) == len(own) and not any(run.curve for run in own):
            return -statistics.fmean(losses)
        return statistics.fmean(run.validation or 0.0 for run in own)

    def _whole(self, runs: Iterable[Run]) -> dict[float, tuple[Run, ...]]:
        r"""By rate, those that every first seed has come through; what trains nothing needs no seeds."""
        found: dict[float, list[Run]] = {}
        for run in sorted(runs, key=lambda run: run.cell.seed):
            if run.correct:
                found.setdefault(run.cell.rate, []).append(run)
        return {
            rate: tuple(own)
            for rate, own in found.items()
            if not own[0].cell.steps or self._first_seeds <= {run.cell.seed for run in own}
        }

    def _paired(self, *arms: str) -> bool:
        r"""Whether all answered the same sentences, and it is known which were right."""
        runs = [run for arm in arms for run in self._of(arm)]
        return not any(run.counted for run in runs) and len({len(run.correct) for run in runs}) == 1

    def _by_seed(self, arm: str, other: str) -> bool:
        r"""Whether a seed means the same for both: the same trained model, or the same few training sentences."""
        n = drawn(arm)
        if len(self._of(arm)[0].correct) != len(self._of(other)[0].correct):
            return False  # other sentences: their differences are no matrix
        return self._trained(arm) == self._trained(other) or (n is not None and n == drawn(other))

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
            if arm.startswith(state(parent, "")) and {replace(cell, arm=parent) for cell in own} <= cells[parent]
        }

    def _of(self, arm: str) -> tuple[Run, ...]:
        one_of("arm", arm, self.arms)
        return self.arms[arm]


def _family(found: Mapping[str, Difference]) -> dict[str, Difference]:
    r"""The same differences with Holm's p-values: as many comparisons, one family."""
    adjusted = holm({name: one.p for name, one in found.items()})
    return {name: replace(one, p=adjusted[name], family=len(found)) for name, one in found.items()}
