r"""Which method to take for a given budget, and what it costs in accuracy: decided by evidence.

Validation sentences are few, and the best of many methods on a few sentences is partly lucky. So of the methods that
fit a budget the best in *validation* only leads. Beside it stand all that the test sentences do not show to be worse,
paired, and of this whole set the one with the fewest trained parameters is taken; of several, the one with the lowest
peak. The price is its test accuracy minus that of full fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coursekit.comparison.candidates import EVERY
from coursekit.comparison.evidence import tables
from coursekit.comparison.evidence.intervals import Interval
from coursekit.comparison.evidence.plan import NOTHING, search_is_over
from coursekit.comparison.evidence.results import CONSTANT, Evidence
from coursekit.comparison.rows import Row
from coursekit.errors import CourseError, number, whole
from coursekit.notebook.tables import Table

#: What all prices are measured by.
REFERENCE = "full"
#: Behind the name of an arm whose search for a learning rate goes on.
STAR = "*"


@dataclass(frozen=True)
class Budget:
    r"""What there is at most; None: as much as it takes.

    trained: parameters, the task head not counted. stored: bytes for a task. memory: bytes at the peak of a training
    step. time: of a step, that of full fine-tuning = 1. only: names of the methods that come into question.
    """

    name: str
    trained: int | None = None
    stored: int | None = None
    memory: int | None = None
    time: float | None = None
    only: tuple[str, ...] | None = None

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
        within = all(limit is None or own <= limit for own, limit in zip(used, limits, strict=True))
        return within and (self.only is None or cost.method in self.only)


@dataclass(frozen=True)
class Choice:
    r"""The method for a budget.

    lead: the best in validation of those that fit. level: of each other one that the test sentences do not show to be
    worse than `lead`, its test accuracy minus that of `lead`. behind: the same of those that they do. arm: of `lead`
    and `level` the one with the fewest parameters. price: its test accuracy minus full fine-tuning's; None where it is
    full fine-tuning, or that was not run yet. preliminary: those that this rests on whose search goes on.
    """

    budget: Budget
    arm: str
    lead: str
    level: Mapping[str, Interval]
    behind: Mapping[str, Interval]
    price: Interval | None
    preliminary: frozenset[str] = frozenset()

    @property
    def unseen(self) -> float | None:
        r"""The largest difference within the set that the data would most likely not have shown."""
        return max((found.margin for found in self.level.values()), default=None)

    def star(self, arm: str) -> str:
        r"""The name of `arm`, with a star where its search goes on."""
        return starred(arm, self.preliminary)

    def __str__(self) -> str:
        fit = 1 + len(self.level) + len(self.behind)
        said = f"{self.budget.name}: {fit} fit, {self.star(self.lead)} leads in validation"
        if self.level:
            named = ", ".join(self.star(arm) for arm in self.level)
            said += f"; not shown to be worse: {named} (a difference up to {self.unseen:.3f} would not show)"
            said += f". Fewest parameters: {self.star(self.arm)}"
        elif self.behind:
            said += f", and the {len(self.behind)} others are worse"
        if self.price is not None:
            against = self.star(REFERENCE)
            said += (
                f", {tables.words(self.price)}{' from ' if not self.price.tells else ' against '}{against}"
            )
        return f"{said}. Preliminary" if self.preliminary else said


def starred(arm: str, preliminary: frozenset[str]) -> str:
    r"""The name of `arm`, with a star where it is among `preliminary`."""
    return f"{arm}{STAR}" if arm in preliminary else arm


def known(evidence: Evidence) -> list[str]:
    r"""Arms that can be judged: those whose best learning rate so far has runs of every seed. Not the constant answer.

    An arm with a better rate that lacks seeds is left out: what is known of it is of a rate that it will not keep.
    """
    return [arm for arm in evidence.searched_arms if arm != CONSTANT and _at_its_best(evidence, arm)]


def _at_its_best(evidence: Evidence, arm: str) -> bool:
    tried = evidence.by_rate(arm)
    return evidence.rate(arm) == max(sorted(tried), key=lambda rate: tried[rate])


def preliminary(evidence: Evidence) -> frozenset[str]:
    r"""Those of `known` whose search for a learning rate goes on: another may turn out to be better."""
    seeds = sorted({run.cell.seed for run in evidence.runs})
    return frozenset(arm for arm in known(evidence) if not search_is_over(evidence.searched(arm), seeds))


def decide(evidence: Evidence, costs: Mapping[str, Row], budget: Budget) -> Choice | None:
    r"""The method to take for `budget`; None where none that was measured fits.

    costs: arm -> what it costs, as measured. An arm without a cost, or not `known`, is not considered.
    """
    fitting = [arm for arm in known(evidence) if arm in costs and budget.allows(costs[arm])]
    if not fitting:
        return None
    lead = max(fitting, key=lambda arm: (evidence.validation(arm), -costs[arm].trained))
    found = {arm: evidence.minus(arm, lead) for arm in fitting if arm != lead}
    level = {arm: one for arm, one in found.items() if one.high >= 0}
    arm = min((lead, *level), key=lambda name: (costs[name].trained, costs[name].peak))
    price = evidence.minus(arm, REFERENCE) if REFERENCE in known(evidence) and arm != REFERENCE else None
    rests_on = {lead, *level} | ({REFERENCE} if price is not None else set())
    behind = {name: one for name, one in found.items() if name not in level}
    return Choice(budget, arm, lead, level, behind, price, preliminary(evidence) & rests_on)


def below(evidence: Evidence, floor: str) -> list[str]:
    r"""Arms that end below `floor`, by their mean test accuracy; the constant answer is no arm."""
    least = evidence.accuracy(floor).value
    return [arm for arm in known(evidence) if arm != floor and evidence.accuracy(arm).value < least]


def longer(evidence: Evidence) -> dict[str, float]:
    r"""Arm -> what twice the steps brought in validation accuracy, where that was tried with every seed."""
    gains = {arm: evidence.gain(arm) for arm in known(evidence)}
    return {arm: gain for arm, gain in gains.items() if gain is not None}


def table(choices: Sequence[Choice | None], budgets: Sequence[Budget], costs: Mapping[str, Row]) -> Table:
    r"""One row a budget: the method, what it needs, its price with the interval, how many are not told apart."""
    if len(choices) != len(budgets):
        raise CourseError(f"one choice for each budget: got {len(choices)} for {len(budgets)}.")
    return Table(
        ["you need", "take", "trained", "stored, kB", "peak, MB", "step / full", f"minus {REFERENCE} (95 %)",
         "others that fit, not told apart"],
        [_row(choice, budget, costs) for choice, budget in zip(choices, budgets, strict=True)],
    )  # fmt: skip


def _row(choice: Choice | None, budget: Budget, costs: Mapping[str, Row]) -> list[object]:
    if choice is None:
        return [budget.name, "nothing with enough runs fits", *[None] * 6]
    cost, others = costs[choice.arm], len(choice.level) + len(choice.behind)
    return [
        budget.name, choice.star(choice.arm), cost.trained, f"{cost.storage_bytes / 1e3:,.0f}",
        f"{cost.peak / 1e6:,.1f}", f"{cost.step_ratio:.2f}", None if choice.price is None else repr(choice.price),
        f"{len(choice.level)} of {others}",
    ]  # fmt: skip


def points(evidence: Evidence, without: Sequence[str]) -> dict[str, tuple[float, float, float, float]]:
    r"""Arm -> (trained parameters with the head, test accuracy, its interval's ends), for `plots.hybrid`."""
    found = {arm: evidence.accuracy(arm) for arm in known(evidence) if arm not in without}
    return {arm: (evidence.parameters(arm), one.value, one.low, one.high) for arm, one in found.items()}


def against(evidence: Evidence) -> dict[str, Interval]:
    r"""Arm -> test accuracy minus that of full fine-tuning, the best first; {} where that was not run yet."""
    arms = known(evidence)
    if REFERENCE not in arms:
        return {}
    found = {arm: evidence.minus(arm, REFERENCE) for arm in arms if arm != REFERENCE}
    return dict(sorted(found.items(), key=lambda pair: -pair[1].value))


def pairs(evidence: Evidence, asked: Mapping[str, tuple[str, str]]) -> Table:
    r"""One row for each of `asked` (question -> one arm, another): parameters, the first minus the second, the answer.

    Where one of the two cannot be judged yet, the row says so.
    """
    arms, open_ = known(evidence), preliminary(evidence)
    rows = []
    for question, pair in asked.items():
        missing = [arm for arm in pair if arm not in arms]
        if missing:
            rows.append(
                [question, " − ".join(pair), None, None, f"{' and '.join(missing)}: not enough runs yet"]
            )
            continue
        one, other = pair
        found = evidence.minus(one, other)
        sizes = " and ".join(f"{evidence.parameters(arm):,}" for arm in pair)
        rows.append(
            [question, " − ".join(starred(arm, open_) for arm in pair), sizes, repr(found), _so(found, pair)]
        )
    return Table(["question", "arms", "parameters", "difference of test accuracy (95 %)", "so"], rows)


def _so(found: Interval, pair: tuple[str, str]) -> str:
    if found.tells:
        return f"{pair[0] if found.value > 0 else pair[1]} is better"
    miss = ", a narrow miss" if found.narrow else ""
    return f"not told apart{miss}; a difference up to {found.margin:.3f} would not show"


def settings(evidence: Evidence) -> Table:
    r"""One row an arm: its name here, the method with its settings, and the learning rate that was best."""
    open_ = preliminary(evidence)
    rows = [
        [starred(arm, open_), EVERY[arm].family, EVERY[arm].settings, f"{evidence.rate(arm):g}"]
        for arm in sorted(known(evidence), key=lambda arm: list(EVERY).index(arm))
    ]
    return Table(["arm", "family", "settings", "learning rate"], rows)


def said(evidence: Evidence, expected: int) -> list[str]:
    r"""What the file holds, a line each. expected: how many methods there are to be."""
    arms, open_ = known(evidence), preliminary(evidence)
    steps = sorted({evidence.steps(arm) for arm in arms})
    seeds = len({run.cell.seed for run in evidence.runs})
    found = [
        f"{len(arms)} of {expected} methods can be judged: {seeds} seeds at the best learning rate that was tried, "
        f"{' or '.join(map(str, steps))} steps; {len(evidence.runs)} runs, {evidence.minutes / 60:.1f} hours",
        f"{STAR} preliminary, the search for the learning rate goes on: {', '.join(sorted(open_))}"
        if open_
        else "",
    ]
    return [*(line for line in found if line), *_longer(evidence)]


def _longer(evidence: Evidence) -> list[str]:
    gains = longer(evidence)
    if not gains:
        return ["whether twice the steps bring more is not known yet: no such run has every seed"]
    listed = ", ".join(f"{arm} {gain:+.3f}" for arm, gain in gains.items())
    rising = [arm for arm, gain in gains.items() if gain > NOTHING]
    end = f"so {', '.join(rising)} had not trained to the end" if rising else f"none more than {NOTHING:g}"
    return [f"twice the steps brought, in validation accuracy: {listed}; {end}"]


def answers(evidence: Evidence, within: float = 0.05) -> list[str]:
    r"""Which method is best, and by how much; how few parameters come close to full fine-tuning; who is below the head.

    within: "close": the whole interval of the difference lies above -within.
    """
    gaps, open_ = against(evidence), preliminary(evidence)
    if not gaps:
        return ["full fine-tuning has not enough runs yet, and nothing can be compared with it"]
    first, gap = next(iter(gaps.items()))
    top, level = evidence.accuracy(REFERENCE).value, [arm for arm, one in gaps.items() if not one.tells]
    better = [arm for arm, one in gaps.items() if one.low > 0]
    full = f"full fine-tuning{STAR if REFERENCE in open_ else ''}"
    order = f"{full} {top:.3f}; next" if gap.value < 0 else f"{full} {top:.3f}; above it on average"
    close = [arm for arm, one in gaps.items() if one.low > -within]
    fewest = min(close, key=evidence.parameters, default=None)
    share = f", {evidence.parameters(fewest) / evidence.parameters(REFERENCE):.2%} of all" if fewest else ""
    worse = "; ".join(
        f"{starred(arm, open_)} {tables.words(evidence.minus(arm, 'head'))}" for arm in _under(evidence)
    )
    return [
        f"1. {order} {starred(first, open_)}, {tables.words(gap)}. Better than full: "
        f"{_names(better, open_)}; not told apart from it: {_names(level, open_)}",
        f"2. whole interval within {within:g} of full, and the fewest parameters: "
        + (f"{starred(fewest, open_)}, {evidence.parameters(fewest):,}{share}" if fewest else "none"),
        f"3. below the head alone, by the mean: {worse or 'none'}",
    ]


def _under(evidence: Evidence) -> list[str]:
    return below(evidence, "head") if "head" in known(evidence) else []


def _names(arms: Sequence[str], open_: frozenset[str]) -> str:
    return ", ".join(starred(arm, open_) for arm in arms) or "none"
