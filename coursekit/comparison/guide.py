r"""Which method to take for a given budget, and what it costs in accuracy: decided by evidence.

Of the methods that fit a budget the best in *validation* leads. Beside it are kept those that are not inferior: the low
end of their test accuracy minus the leader's lies above −`MARGIN`, and nothing else counts. A method of which little is
known has a wide interval and is not kept. Of the kept the one is taken that needs least of what the budget is short of;
where it is short of nothing, the leader. The price is its test accuracy minus that of full fine-tuning: the same test
sentences helped to choose it, so it is a little flattering.

How firm a choice is, is asked of other draws: test sentences and seeds drawn again with replacement, and decided anew
(with the intervals' widths as they are: three seeds drawn from three would make them too narrow). The validation
sentences, which name the leader, stay the same, so the shares are too high. A choice that holds in fewer than `FIRM` of
them is given as a set: the method, then those that are taken in most draws, until they are taken in so many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from coursekit.comparison.costs import PREPARED, trusted
from coursekit.comparison.rows import Row
from coursekit.errors import CourseError, number, one_of, whole
from coursekit.experiments import intervals
from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import CONSTANT, Results
from coursekit.experiments.verdict import non_inferior

#: What all prices are measured by.
REFERENCE = "full"
#: Share of the draws in which a choice must hold, and how many there are.
FIRM, DRAWS = 0.8, 200
#: What one can be short of: the field of `Row` that says how much a method needs, and what the least of it is called.
NEEDS = {
    "trained": ("trained", "fewest trained parameters"),
    "stored": ("storage_bytes", "fewest bytes stored"),
    "memory": ("peak", "lowest peak"),
    "time": ("step_ratio", "fastest step"),
}


@dataclass(frozen=True)
class Budget:
    r"""What there is at most; None: as much as it takes.

    trained: parameters, the task head not counted. stored: bytes for a task. memory: bytes at the peak of a training
    step; no method of `costs.PREPARED` fits, because its peak leaves out what comes before the first step. time: of a
    step, that of full fine-tuning = 1. only: names of the methods that come into question. short_of: one of `NEEDS`,
    of which the method is to need least: the one that has a limit, unless there are several. None: of nothing, and the
    leader is taken.
    """

    name: str
    trained: int | None = None
    stored: int | None = None
    memory: int | None = None
    time: float | None = None
    only: tuple[str, ...] | None = None
    short_of: str | None = None

    def __post_init__(self) -> None:
        for name in ("trained", "stored", "memory"):
            if (most := getattr(self, name)) is not None:
                whole(name, most, least=0, such_as=100_000)
        if self.time is not None:
            number("time", self.time, above=0, such_as=0.7)
        if self.short_of is not None:
            one_of("short_of", self.short_of, NEEDS)
            return
        limited = [name for name in NEEDS if getattr(self, name) is not None]
        if len(limited) > 1:
            raise CourseError(f"limits on {' and '.join(limited)}: short_of must name the one that decides.")
        object.__setattr__(self, "short_of", limited[0] if limited else None)

    def allows(self, cost: Row) -> bool:
        r"""Whether a method with this cost fits."""
        limits = {field: getattr(self, name) for name, (field, _) in NEEDS.items()}
        within = all(limit is None or getattr(cost, field) <= limit for field, limit in limits.items())
        if cost.method in PREPARED and (self.memory is not None or self.short_of == "memory"):
            return False
        return within and (self.only is None or cost.method in self.only)


@dataclass(frozen=True)
class Choice:
    r"""The method for a budget.

    lead: the best in validation of those that fit. kept: of each other one that is not inferior to it, its test
    accuracy minus the leader's; left: of the others that fit. arm: of `lead` and `kept` the one that needs least of
    what the budget is short of. price: its test accuracy minus full fine-tuning's; None where it is that. holds:
    method -> in what share of other draws it would be taken.
    """

    budget: Budget
    arm: str
    lead: str
    kept: Mapping[str, Difference]
    left: Mapping[str, Difference]
    price: Difference | None
    holds: Mapping[str, float]

    @property
    def taken(self) -> tuple[str, ...]:
        r"""The method; where it holds in fewer than `FIRM` of the draws, the fewest that do together."""
        found, share = [self.arm], self.holds.get(self.arm, 0.0)
        for arm in sorted(self.holds, key=lambda arm: -self.holds[arm]):
            if share >= FIRM:
                break
            if arm != self.arm:
                found.append(arm)
                share += self.holds[arm]
        return tuple(found)

    def __str__(self) -> str:
        taken = " or ".join(f"{arm} (holds in {self.holds.get(arm, 0):.0%})" for arm in self.taken)
        text = f"{self.budget.name}: take {taken}"
        return text if self.price is None else f"{text}; against {REFERENCE} {self.arm} is {self.price}"


def decide(results: Results, costs: Mapping[str, Row], budget: Budget, draws: int = DRAWS) -> Choice | None:
    r"""The method to take for `budget`; None where none that was measured fits.

    costs: method -> what it costs, as measured. One without a cost is not considered.
    """
    fitting = [arm for arm in results.arms if arm != CONSTANT and arm in costs and budget.allows(costs[arm])]
    if not fitting:
        return None
    scores = {arm: np.array([run.correct for run in results.arms[arm]], dtype=float) for arm in fitting}
    seeds = {arm: np.array([run.validation or 0.0 for run in results.arms[arm]]) for arm in fitting}

    @cache
    def gap(one: str, other: str) -> Difference:
        return intervals.difference(scores[one], scores[other])

    def low(one: str, other: str) -> float:
        return gap(one, other).low

    arm, lead = _decided(low, {one: results.validation(one) for one in fitting}, costs, budget)
    random, taken = np.random.default_rng(0), Counter[str]()
    for _ in range(draws):
        sentences = random.integers(scores[lead].shape[1], size=scores[lead].shape[1])
        rows = {one: random.integers(len(x), size=len(x)) for one, x in scores.items()}
        mean = {one: float(x[rows[one]].mean(axis=0)[sentences].mean()) for one, x in scores.items()}
        validated = {one: float(seeds[one][rows[one]].mean()) for one in fitting}

        def drawn(one: str, other: str, mean: dict[str, float] = mean) -> float:
            return mean[one] - mean[other] - gap(one, other).margin

        taken[_decided(drawn, validated, costs, budget)[0]] += 1
    minus = {one: gap(one, lead) for one in fitting if one != lead}
    return Choice(
        budget, arm, lead,
        {one: found for one, found in minus.items() if found.non_inferior},
        {one: found for one, found in minus.items() if not found.non_inferior},
        results.difference(arm, REFERENCE) if REFERENCE in {*results.arms} - {arm} else None,
        {one: count / draws for one, count in taken.most_common()},
    )  # fmt: skip


def _decided(
    low: Callable[[str, str], float], validation: Mapping[str, float], costs: Mapping[str, Row], budget: Budget
) -> tuple[str, str]:
    r"""(the method to take, the leader). Of several that are equal in validation the one with fewer parameters leads;
    of several that need the same, as far as was measured, the best in validation is taken. low: the low end of one
    method's difference to another.
    """
    lead = max(validation, key=lambda arm: (validation[arm], -costs[arm].trained))
    if budget.short_of is None:
        return lead, lead
    kept = [lead, *(arm for arm in validation if arm != lead and non_inferior(low(arm, lead)))]
    used = {arm: getattr(costs[arm], NEEDS[budget.short_of][0]) for arm in kept}
    most = min(used.values()) + (trusted(costs) if budget.short_of == "time" else 0)
    return max((arm for arm in kept if used[arm] <= most), key=lambda arm: (validation[arm], -used[arm])), lead
