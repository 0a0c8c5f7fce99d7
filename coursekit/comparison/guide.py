r"""Which method to take for a given budget, and what it costs in accuracy: decided by evidence.

Of the methods that fit a budget the best in *validation* leads. Beside it are kept those that are not shown to be worse
and cannot be much worse: the interval of their test accuracy minus the leader's holds 0, or lies above it, and ends
above -`TOLERANCE`. A method of which little is known has a wide interval and is not kept. Of these the one is taken
that needs least of what the budget is short of; where it is short of nothing, the leader. The price is its test
accuracy minus that of full fine-tuning: the same test sentences helped to choose it, so it is a little flattering.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coursekit.comparison.candidates import EVERY
from coursekit.comparison.costs import trusted
from coursekit.comparison.evidence import tables
from coursekit.comparison.evidence.intervals import Interval
from coursekit.comparison.evidence.plan import NOTHING, search_is_over
from coursekit.comparison.evidence.results import CONSTANT, Evidence
from coursekit.comparison.evidence.sentences import compared, coverage
from coursekit.comparison.rows import Row
from coursekit.errors import CourseError, number, one_of, whole
from coursekit.notebook.tables import Table

#: What all prices are measured by.
REFERENCE = "full"
#: Behind the name of an arm whose search for a learning rate goes on.
STAR = "*"


#: How far below the leader the interval of a method may end. It is about twice what intervals of a difference reach to
#: either side in this evidence: most methods as good as the leader are kept, and at most 1 in 40 of those worse by the
#: tolerance.
TOLERANCE = 0.03
#: What one can be short of: the field of `Row` that says how much a method needs, and what the least of it is called.
NEEDS = {
    "trained": ("trained", "fewest trained parameters"),
    "stored": ("storage_bytes", "fewest bytes stored"),
    "memory": ("peak", "lowest peak"),
    "time": ("step_ratio", "fastest step"),
}
#: Arms of which the plan has runs of twice the steps as well: full fine-tuning and six methods, no hybrid among them.
DOUBLED = ("full", "pfeiffer", "ia3", "bitfit", "lora", "prompt", "prefix")
#: Arms that learn slowly, whose place says little about where they end.
SLOW = ("prompt", "p-tuning")


@dataclass(frozen=True)
class Budget:
    r"""What there is at most; None: as much as it takes.

    trained: parameters, the task head not counted. stored: bytes for a task. memory: bytes at the peak of a training
    step. time: of a step, that of full fine-tuning = 1. only: names of the methods that come into question. short_of:
    one of `NEEDS`, of which the method is to need least: the one that has a limit, unless there are several. None:
    of nothing, and the leader is taken.
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
        return within and (self.only is None or cost.method in self.only)


@dataclass(frozen=True)
class Choice:
    r"""The method for a budget.

    lead: the best in validation of those that fit. kept: of each other one that is not shown to be worse than the
    leader and is within `within` of it, its test accuracy minus the leader's. left: the same of the others that fit.
    arm: of `lead` and `kept` the one that needs least of what the budget is short of. price: its test accuracy minus
    full fine-tuning's; None where it is full fine-tuning, or that was not run yet. preliminary: those that this rests
    on whose search goes on.
    """

    budget: Budget
    arm: str
    lead: str
    kept: Mapping[str, Interval]
    left: Mapping[str, Interval]
    price: Interval | None
    within: float = TOLERANCE
    preliminary: frozenset[str] = frozenset()

    def star(self, arm: str) -> str:
        r"""The name of `arm` in quotes, with a star where its search goes on."""
        return _quoted(arm, self.preliminary)

    def __str__(self) -> str:
        fit = 1 + len(self.kept) + len(self.left)
        said = f"{self.budget.name}: {fit} fit, {self.star(self.lead)} leads in validation"
        if self.kept:
            said += (
                f"; within {self.within:g} and not shown to be worse: {', '.join(map(self.star, self.kept))}"
            )
        elif self.left:
            said += ", and no other is kept"
        if self.budget.short_of and self.kept:
            least = NEEDS[self.budget.short_of][1]
            said += f". {least.capitalize()}: {self.star(self.arm)}"
            if self.arm in self.kept:
                gap = self.kept[self.arm]
                said += f", {tables.words(gap)}{' against ' if gap.tells else ' from '}{self.star(self.lead)}"
        elif self.kept:
            said += f". Short of nothing, take {self.star(self.arm)}"
        if self.price is not None:
            against = self.star(REFERENCE)
            said += (
                f", {tables.words(self.price)}{' from ' if not self.price.tells else ' against '}{against}"
            )
        return f"{said}. Preliminary" if self.preliminary else said


def starred(arm: str, preliminary: frozenset[str]) -> str:
    r"""The name of `arm`, with a star where it is among `preliminary`."""
    return f"{arm}{STAR}" if arm in preliminary else arm


def _quoted(arm: str, preliminary: frozenset[str]) -> str:
    r"""As `starred`, in quotes, for a sentence: there an arm such as "far" or "head" reads as a word."""
    return f"`{arm}`{STAR}" if arm in preliminary else f"`{arm}`"


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


def decide(
    evidence: Evidence, costs: Mapping[str, Row], budget: Budget, within: float = TOLERANCE
) -> Choice | None:
    r"""The method to take for `budget`; None where none that was measured fits.

    costs: arm -> what it costs, as measured. An arm without a cost, or not `known`, is not considered. within: how far
    below the leader the interval of a method may end. One that is told apart from the leader downwards is not kept,
    however little it is worse.
    """
    fitting = [arm for arm in known(evidence) if arm in costs and budget.allows(costs[arm])]
    if not fitting:
        return None
    lead = max(fitting, key=lambda arm: (evidence.validation(arm), -costs[arm].trained))
    found = {arm: evidence.minus(arm, lead) for arm in fitting if arm != lead}
    kept = {arm: one for arm, one in found.items() if one.low > -within and (one.value > 0 or not one.tells)}
    arm = lead if budget.short_of is None else _least(evidence, costs, [lead, *kept], budget.short_of)
    price = evidence.minus(arm, REFERENCE) if REFERENCE in known(evidence) and arm != REFERENCE else None
    rests_on = {lead, *kept} | ({REFERENCE} if price is not None else set())
    left = {name: one for name, one in found.items() if name not in kept}
    return Choice(budget, arm, lead, kept, left, price, within, preliminary(evidence) & rests_on)


def _least(evidence: Evidence, costs: Mapping[str, Row], arms: Sequence[str], need: str) -> str:
    r"""The one that needs least; of several that need the same, as far as was measured, the best in validation."""
    used = {arm: getattr(costs[arm], NEEDS[need][0]) for arm in arms}
    most = min(used.values()) + (trusted(costs) if need == "time" else 0)
    return max(
        (arm for arm in arms if used[arm] <= most), key=lambda arm: (evidence.validation(arm), -used[arm])
    )


def resolution(evidence: Evidence) -> str:
    r"""How far the intervals here reach to either side, in words: what a tolerance can ask for."""
    margins = sorted(found.margin for found in against(evidence).values())
    if not margins:
        return (
            "nothing can be compared with full fine-tuning yet, so what a tolerance can ask for is not known"
        )
    return (
        f"intervals of a difference to {REFERENCE} reach {margins[0]:.3f} to {margins[-1]:.3f} to either side, half of "
        f"them {statistics.median(margins):.3f} or less; the tolerance is {TOLERANCE:g}"
    )


def below(evidence: Evidence, floor: str) -> list[str]:
    r"""Arms that end below `floor`, by their mean test accuracy; the constant answer is no arm."""
    least = evidence.accuracy(floor).value
    return [arm for arm in known(evidence) if arm != floor and evidence.accuracy(arm).value < least]


def longer(evidence: Evidence) -> dict[str, float]:
    r"""Arm -> what twice the steps brought in validation accuracy, where that was tried with every seed."""
    gains = {arm: evidence.gain(arm) for arm in known(evidence)}
    return {arm: gain for arm, gain in gains.items() if gain is not None}


def table(choices: Sequence[Choice | None], budgets: Sequence[Budget], costs: Mapping[str, Row]) -> Table:
    r"""One row a budget: the method, what it needs, its price with the interval, how many were kept beside it."""
    if len(choices) != len(budgets):
        raise CourseError(f"one choice for each budget: got {len(choices)} for {len(budgets)}.")
    return Table(
        ["you need", "take", "trained", "stored, kB", "peak, MB", f"step / {REFERENCE}",
         "estimated price (chosen on the same test sentences, so a little flattering)",
         "others kept, of those that fit"],
        [_row(choice, budget, costs) for choice, budget in zip(choices, budgets, strict=True)],
        f"Price: test accuracy minus that of {REFERENCE}, with its 95 % interval.",
    )  # fmt: skip


def _row(choice: Choice | None, budget: Budget, costs: Mapping[str, Row]) -> list[object]:
    if choice is None:
        return [budget.name, "nothing with enough runs fits", *[None] * 6]
    cost, others = costs[choice.arm], len(choice.kept) + len(choice.left)
    return [
        budget.name, starred(choice.arm, choice.preliminary), cost.trained, f"{cost.storage_bytes / 1e3:,.0f}",
        f"{cost.peak / 1e6:,.1f}", "1" if choice.arm == REFERENCE else f"{cost.step_ratio:.2f}",
        None if choice.price is None else repr(choice.price),
        f"{len(choice.kept)} of {others}",
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
            [
                question,
                " − ".join(starred(arm, open_) for arm in pair),
                sizes,
                repr(found),
                tables.told(found, *pair),
            ]
        )
    return Table(
        [
            "question",
            "arms",
            "parameters",
            "difference of test accuracy (95 %)",
            "so, at this grid's learning rates",
        ],
        rows,
    )


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
    seeds = len({run.cell.seed for run in evidence.runs})
    search = (
        f"{STAR} preliminary, the search for the learning rate goes on: {', '.join(sorted(open_))}"
        if open_
        else "the search for the learning rate is over for all of them"
    )
    return [
        f"{len(arms)} of {expected} methods can be judged: {seeds} seeds at the best learning rate that was tried, "
        f"{_steps(evidence)} steps; {len(evidence.runs)} runs, {evidence.minutes / 60:.1f} hours",
        search,
        *_longer(evidence),
    ]


def _steps(evidence: Evidence) -> str:
    return " or ".join(map(str, sorted({evidence.steps(arm) for arm in known(evidence)})))


def _longer(evidence: Evidence) -> list[str]:
    r"""Whether the steps are enough, as far as runs of twice as many say."""
    gains, arms = longer(evidence), known(evidence)
    many = f"{_steps(evidence)} steps"
    waiting = [arm for arm in DOUBLED if arm in arms and arm not in gains]
    slow = [arm for arm in SLOW if arm in arms and arm not in gains]
    lines = []
    if gains:
        listed = ", ".join(f"{arm} {gain:+.3f}" for arm, gain in gains.items())
        rising = [arm for arm, gain in gains.items() if gain > NOTHING]
        end = (
            f"so the places of {', '.join(rising)} say what {many} do, not where they end"
            if rising
            else f"none more than {NOTHING:g}"
        )
        lines.append(f"twice the steps brought, in validation accuracy: {listed}; {end}")
    if waiting:
        whether = "" if gains else f"whether {many} are enough is not known: "
        lines.append(f"{whether}runs of twice the steps are missing for {', '.join(waiting)}")
    if slow and "prompt" not in gains:
        lines.append(
            f"soft prompts learn slowly: the places of {' and '.join(slow)} say what {many} do, "
            "not where they end"
        )
    return lines


def shortcuts(evidence: Evidence) -> list[str]:
    r"""What the two shortcuts of all runs do to LoRA, from evidence on `shortcuts`, and what is not measured yet."""
    labels = {
        "plain": "neither shortcut", "by-length": "batches by length",
        "by-length-bfloat16": "batches by length and bfloat16",
    }  # fmt: skip
    found = compared(evidence, [("by-length", "plain"), ("by-length-bfloat16", "plain")], labels)
    covered = coverage(evidence, labels)
    waiting = [] if set(labels) <= set(evidence.arms) else [covered]
    return [f"the shortcuts, tried with LoRA: {line}" for line in (*found, *waiting)]


def answers(evidence: Evidence, within: Sequence[float] = (0.05, TOLERANCE)) -> list[str]:
    r"""Which method is best, and by how much; how few parameters come close to full fine-tuning; who is below the head.

    within: what "close" may mean: the whole interval of the difference lies above minus that.
    """
    gaps, open_ = against(evidence), preliminary(evidence)
    if not gaps:
        return ["full fine-tuning has not enough runs yet, and nothing can be compared with it"]
    first, gap = next(iter(gaps.items()))
    top, level = evidence.accuracy(REFERENCE).value, [arm for arm, one in gaps.items() if not one.tells]
    better = [arm for arm, one in gaps.items() if one.low > 0]
    full = f"full fine-tuning{STAR if REFERENCE in open_ else ''}"
    order = f"{full} {top:.3f}; next" if gap.value < 0 else f"{full} {top:.3f}; above it on average"

    def nearest(far: float) -> str:
        close = [arm for arm, one in gaps.items() if one.low > -far]
        if not close:
            return f"within {far:g}: none"
        arm = min(close, key=evidence.parameters)
        share = evidence.parameters(arm) / evidence.parameters(REFERENCE)
        return f"within {far:g}: {_quoted(arm, open_)}, {evidence.parameters(arm):,}, {share:.2%} of all"

    worse = "; ".join(
        f"{_quoted(arm, open_)} {tables.words(evidence.minus(arm, 'head'))}" for arm in _under(evidence)
    )
    return [
        f"1. {order} {_quoted(first, open_)}, {tables.words(gap)}. Better than full: "
        f"{_names(better, open_)}; not told apart from it: {_names(level, open_)}",
        f"2. fewest parameters with the whole interval near full, {'; '.join(map(nearest, within))}",
        f"3. below the head alone, `head`, by the mean: {worse or 'none'}",
    ]


def _under(evidence: Evidence) -> list[str]:
    return below(evidence, "head") if "head" in known(evidence) else []


def _names(arms: Sequence[str], open_: frozenset[str]) -> str:
    return ", ".join(_quoted(arm, open_) for arm in arms) or "none"
