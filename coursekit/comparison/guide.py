r"""Which method to take for a given budget, and what it costs in accuracy: decided by evidence.

Of the methods that fit the budget the one with the best *validation* accuracy is taken. Its price is its *test*
accuracy minus that of full fine-tuning: had the test sentences chosen it as well, luck on them would flatter it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coursekit.comparison.evidence import results, tables
from coursekit.comparison.evidence.intervals import Interval
from coursekit.comparison.evidence.results import CONSTANT, Evidence
from coursekit.comparison.rows import Row
from coursekit.errors import CourseError, number, whole
from coursekit.notebook.tables import Table

#: What all prices are measured by.
REFERENCE = "full"


@dataclass(frozen=True)
class Budget:
    r"""What there is at most; None: as much as it takes.

    trained: parameters, the task head not counted. stored: bytes for a task. memory: bytes at the peak of a training
    step. time: of a step, that of full fine-tuning = 1.
    """

    name: str
    trained: int | None = None
    stored: int | None = None
    memory: int | None = None
    time: float | None = None

    def __post_init__(self) -> None:
        for name in ("trained", "stored", "memory"):
            if (most := getattr(self, name)) is not None:
                whole(name, most, least=0, such_as=100_000)
        if self.time is not None:
            number("time", self.time, above=0, such_as=0.7)

    def allows(self, cost: Row) -> bool:
        r"""Whether a method with this cost fits."""
        used = (cost.trained, cost.storage_bytes, cost.peak, cost.step_ratio)
        limits = (self.trained, self.stored, self.memory, self.time)
        return all(limit is None or own <= limit for own, limit in zip(used, limits, strict=True))


@dataclass(frozen=True)
class Choice:
    r"""The method for a budget.

    price: its test accuracy minus full fine-tuning's; None where it is full fine-tuning, or that was not run yet.
    others: of each other method that fits, its test accuracy minus that of the method taken.
    """

    budget: Budget
    arm: str
    price: Interval | None
    others: Mapping[str, Interval]

    @property
    def level(self) -> dict[str, Interval]:
        r"""Those of `others` that are not told apart from the method taken. That is not to say that they are equal."""
        return {name: found for name, found in self.others.items() if not found.tells}

    @property
    def ahead(self) -> list[str]:
        r"""Those that the test sentences show to be better, though the validation sentences did not."""
        return [name for name, found in self.others.items() if found.low > 0]

    @property
    def unseen(self) -> float | None:
        r"""The largest difference to one of `level` that the data would most likely not have shown."""
        return max((found.margin for found in self.level.values()), default=None)

    def __str__(self) -> str:
        said = f"{self.budget.name}: {self.arm}"
        if self.price is not None:
            said += f", {self.price!r} against {REFERENCE}"
            said += "" if self.price.tells else ", which does not tell the two apart"
        if not self.others:
            return f"{said}; nothing else fits"
        if self.ahead:
            said += f"; on the test sentences {', '.join(self.ahead)} did better"
        if not self.level:
            return said if self.ahead else f"{said}; better than every other that fits ({len(self.others)})"
        some = list(self.level)
        named = ", ".join(some) if len(some) <= 4 else f"{', '.join(some[:3])} and {len(some) - 3} more"
        return f"{said}; not told apart from {named}: a difference up to {self.unseen:.3f} would not show"


def decide(evidence: Evidence, costs: Mapping[str, Row], budget: Budget) -> Choice | None:
    r"""The method to take for `budget`; None where none that was measured fits.

    costs: arm -> what it costs, as measured. An arm without a cost, or without runs of every seed, is not considered,
    nor is the constant answer.
    """
    fitting = [arm for arm in considered(evidence, costs) if budget.allows(costs[arm])]
    if not fitting:
        return None
    arm = max(fitting, key=lambda name: (evidence.validation(name), -costs[name].trained))
    others = {name: evidence.minus(name, arm) for name in fitting if name != arm}
    price = evidence.minus(arm, REFERENCE) if REFERENCE in evidence.arms and arm != REFERENCE else None
    return Choice(budget, arm, price, others)


def considered(evidence: Evidence, costs: Mapping[str, Row]) -> list[str]:
    r"""Arms that have both evidence and a measured cost."""
    return [arm for arm in evidence.searched_arms if arm in costs and arm != CONSTANT]


def below(evidence: Evidence, floor: str) -> list[str]:
    r"""Arms that end below `floor`, by their mean test accuracy; the constant answer is no arm."""
    least = evidence.accuracy(floor).value
    others = [arm for arm in evidence.searched_arms if arm not in (floor, CONSTANT)]
    return [arm for arm in others if evidence.accuracy(arm).value < least]


def longer(evidence: Evidence) -> dict[str, float]:
    r"""Arm -> what twice the steps brought in validation accuracy, where that was tried with every seed."""
    gains = {arm: evidence.gain(arm) for arm in evidence.searched_arms if arm != CONSTANT}
    return {arm: gain for arm, gain in gains.items() if gain is not None}


def table(choices: Sequence[Choice | None], budgets: Sequence[Budget], costs: Mapping[str, Row]) -> Table:
    r"""One row a budget: the method, what it needs, its price with the interval, and how many are level with it."""
    if len(choices) != len(budgets):
        raise CourseError(f"one choice for each budget: got {len(choices)} for {len(budgets)}.")
    return Table(
        ["budget", "take", "trained", "stored, kB", "memory, MB", "step / full", f"minus {REFERENCE} (95 %)",
         "level with it"],
        [_row(choice, budget, costs) for choice, budget in zip(choices, budgets, strict=True)],
    )  # fmt: skip


def _row(choice: Choice | None, budget: Budget, costs: Mapping[str, Row]) -> list[object]:
    if choice is None:
        return [budget.name, "nothing measured fits", None, None, None, None, None, None]
    cost = costs[choice.arm]
    return [
        budget.name, choice.arm, cost.trained, f"{cost.storage_bytes / 1e3:,.0f}", f"{cost.peak / 1e6:,.0f}",
        f"{cost.step_ratio:.2f}", None if choice.price is None else repr(choice.price),
        f"{len(choice.level)} of {len(choice.others)}",
    ]  # fmt: skip


def points(evidence: Evidence, without: Sequence[str]) -> dict[str, tuple[float, float, float, float]]:
    r"""Arm -> (trained parameters with the head, test accuracy, its interval's ends), for `plots.hybrid`."""
    found = {arm: evidence.accuracy(arm) for arm in evidence.searched_arms if arm not in without}
    return {arm: (evidence.parameters(arm), one.value, one.low, one.high) for arm, one in found.items()}


def against(evidence: Evidence) -> dict[str, Interval]:
    r"""Arm -> test accuracy minus that of full fine-tuning, the best first; {} where that was not run yet."""
    if REFERENCE not in evidence.arms:
        return {}
    others = [arm for arm in evidence.searched_arms if arm not in (CONSTANT, REFERENCE)]
    found = {arm: evidence.minus(arm, REFERENCE) for arm in others}
    return dict(sorted(found.items(), key=lambda pair: -pair[1].value))


def _floor(evidence: Evidence) -> str:
    return "; ".join(f"{arm} {tables.words(evidence.minus(arm, 'head'))}" for arm in below(evidence, "head"))


def said(evidence: Evidence, expected: int, within: float = 0.05) -> list[str]:
    r"""What the file says, a line each. expected: how many methods there are to be. within: "close to" full."""
    arms = [arm for arm in evidence.searched_arms if arm != CONSTANT]
    more = ", ".join(f"{arm} {gain:+.3f}" for arm, gain in longer(evidence).items())
    done = results.settled(evidence.topic)
    found = [
        f"{len(arms)} of {expected} methods have runs with every seed{f'; settled: {done}' if done else ''}; "
        f"{len(evidence.runs)} runs, {evidence.minutes / 60:.1f} hours of one thread",
        f"twice the steps bring, in validation accuracy: {more or 'not run yet'}",
        f"below the head alone: {_floor(evidence) or 'none'}" if "head" in arms else "",
    ]
    gaps = against(evidence)
    level = {arm: gap for arm, gap in gaps.items() if not gap.tells}
    close = [arm for arm, gap in gaps.items() if gap.low > -within]
    fewest = min(close, key=evidence.parameters, default=None)
    found += [
        f"better than full fine-tuning: {', '.join(a for a, gap in gaps.items() if gap.low > 0) or 'none'}",
        f"worse: {', '.join(a for a, gap in gaps.items() if gap.high < 0) or 'none'}",
        "not told apart from it: "
        + (
            ", ".join(f"{arm} (up to ±{gap.margin:.3f} would not show)" for arm, gap in level.items())
            or "none"
        ),
        f"fewest parameters surely within {within:g} of it: "
        + (f"{fewest}, {evidence.parameters(fewest):,}" if fewest else "none"),
    ]
    return [line for line in found if line]
