r"""The exercises of notebook 10_which_method: a comparison planned, judged, and a leader that flatters itself."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.checks.training import Training, TrainingCase, TrainingScore
from coursekit.experiments.verdict import Verdict

# hybrid-plan ----------------------------------------------------------------------------------------------

#: (method, seed, validation accuracy)
Pilot = tuple[tuple[str, int, float], ...]
#: Fewer say nothing of a spread.
FEWEST = 3
#: Standard errors that a difference must be large to be found four times in five: the margin of 95 % (1.96), and on top
#: the 0.84 that four of five normal numbers do not fall short by.
POWER = 1.96 + 0.84


def of_each_method(pilot: Pilot, statistic: Callable[[Sequence[float]], float] = statistics.variance) -> list[float]:
    r"""A statistic of each method's accuracies, in the order in which the pilot names them."""
    methods = list(dict.fromkeys(method for method, _, _ in pilot))
    return [statistic([score for own, _, score in pilot if own == method]) for method in methods]


def new_seeds(pilot: Pilot, n: int) -> tuple[int, ...]:
    r"""The `n` smallest seeds that no run of `pilot` has."""
    used = {seed for _, seed, _ in pilot}
    return tuple(seed for seed in range(n + len(used)) if seed not in used)[:n]


def _seeds_for(variance: float, smallest: float, errors: float = POWER) -> int:
    return max(FEWEST, math.ceil(errors**2 * variance / smallest**2))


def plan(pilot: Pilot, smallest: float) -> tuple[int, ...]:
    r"""New seeds, just so many that 2.8 standard errors of the difference are at most `smallest`."""
    return new_seeds(pilot, _seeds_for(sum(of_each_method(pilot)), smallest))


#: Wrong numbers of seeds, each with what is wrong with it.
_WRONG_COUNTS: dict[str, Callable[[Pilot, float], int]] = {
    "this makes one standard error as small as asked; asked are 2.8": lambda pilot, smallest: _seeds_for(
        sum(of_each_method(pilot)), smallest, errors=1
    ),
    "with 1.96 or 2 standard errors a difference of just `smallest` is found half of the time; asked are 2.8": (
        lambda pilot, smallest: _seeds_for(sum(of_each_method(pilot)), smallest, errors=2)
    ),
    "this is the spread of one method alone; both means scatter, so their variances add up": lambda pilot, smallest: (
        _seeds_for(of_each_method(pilot)[0], smallest)
    ),
    "the variance is taken over all runs together: then the difference between the methods counts as noise": (
        lambda pilot, smallest: _seeds_for(2 * statistics.variance([score for *_, score in pilot]), smallest)
    ),
    "a variance from a few runs divides by n - 1: statistics.variance, not pvariance": lambda pilot, smallest: (
        _seeds_for(sum(of_each_method(pilot, statistics.pvariance)), smallest)
    ),
    "this rounds down or to the nearest, and so many seeds are just too few: round up": lambda pilot, smallest: max(
        FEWEST, math.floor(POWER**2 * sum(of_each_method(pilot)) / smallest**2)
    ),
    "the error of a mean falls with the root of the seeds, not with their number": lambda pilot, smallest: max(
        FEWEST, math.ceil(POWER * sum(of_each_method(pilot)) ** 0.5 / smallest)
    ),
    "the standard deviations are added; of independent means the variances add up": lambda pilot, smallest: _seeds_for(
        sum(v**0.5 for v in of_each_method(pilot)) ** 2, smallest
    ),
}


def _pilot_runs(draw: Draw) -> tuple[Pilot, float]:
    r"""Five pilot runs of two methods, and the smallest difference that matters. The second kind needs few seeds."""
    one, other = draw.pick(_ONE), draw.pick(_OTHER)
    used = draw.order(9)[:5]
    while True:
        runs = [
            (method, seed, round(middle + draw.real(-0.03, 0.03), 4))
            for method, middle in ((one, draw.real(0.80, 0.84)), (other, draw.real(0.74, 0.77)))
            for seed in used
        ]
        smallest = draw.real(0.085, 0.125) if draw.kind else draw.real(0.017, 0.028)
        exact = POWER**2 * sum(of_each_method(tuple(runs))) / smallest**2
        if draw.kind and exact < FEWEST - 1:
            break
        # Far from a whole number, so that no rounding decides; and every mistake asks for another number of seeds.
        found = {make(tuple(runs), smallest) for make in _WRONG_COUNTS.values()} | {math.ceil(exact)}
        if not draw.kind and 6 < exact < 30 and 0.1 < exact % 1 < 0.45 and len(found) > len(_WRONG_COUNTS):
            break
    return tuple(runs[i] for i in draw.order(len(runs))), smallest


_ONE, _OTHER = ("lora", "bitfit", "compacter", "mam"), ("houlsby", "ia3", "prefix", "unipelt")


PLAN = Exercise(
    id="hybrid-plan", points=3, difficulty=3, minutes=15,
    secret=_pilot_runs, reference=plan,
    mutants={
        **{
            message: lambda pilot, smallest, make=make: new_seeds(pilot, make(pilot, smallest))
            for message, make in _WRONG_COUNTS.items()
        },
        "seeds of the pilot are among them: what gave you the idea cannot confirm it as well":
            lambda pilot, smallest: tuple(range(len(plan(pilot, smallest)))),
        "these come after the pilot's largest seed; asked are the smallest that it did not use":
            lambda pilot, smallest: tuple(
                max(seed for _, seed, _ in pilot) + 1 + i for i in range(len(plan(pilot, smallest)))
            ),
        "with fewer than three seeds the comparison cannot say how much seeds matter":
            lambda pilot, smallest: new_seeds(
                pilot, max(1, math.ceil(POWER**2 * sum(of_each_method(pilot)) / smallest**2))
            ),
        "this is how many seeds; asked is which, so that nobody can choose them afterwards":
            lambda pilot, smallest: len(plan(pilot, smallest)),
    },
    tolerance=0.0, kinds=2,
)  # fmt: skip


# hybrid-conclude ------------------------------------------------------------------------------------------

#: (method, seed, test accuracy)
Runs = tuple[tuple[str, int, float], ...]
Conclusion = tuple[str, float, float]
INCOMPLETE = "incomplete"
BETTER, WORSE, EQUAL, OPEN = (str(v) for v in (Verdict.BETTER, Verdict.WORSE, Verdict.EQUAL, Verdict.UNCLEAR))
#: The margin where a method has a single run, and so no variance: two accuracies may differ by anything.
UNKNOWN = 1.0
#: Student's t at 95 % for two times five seeds; the normal distribution's 1.96 is for a variance that is known.
FIVE = 2.306


def _concluded(
    registered: bool = True,
    complete: bool = True,
    one_is_missing: bool = False,
    small_first: bool = True,
    factor: float | None = None,
    of_means: bool = True,
    of_registered: bool = False,
    open_first: bool = False,
    open_is: str = OPEN,
    mean: Callable[[Sequence[float]], float] = statistics.fmean,
    variance: Callable[[Sequence[float]], float] = statistics.variance,
) -> Callable[..., Conclusion]:
    r"""The right rule, or one with a single thing wrong. factor: instead of the standard errors that are given."""

    def rule(runs: Runs, one: str, other: str, seeds: Sequence[int], smallest: float, errors: float) -> Conclusion:
        own = {
            method: [score for name, seed, score in runs if name == method and (seed in seeds or not registered)]
            for method in (one, other)
        }
        difference = mean(own[one]) - mean(own[other])
        single = min(map(len, own.values())) < 2
        if single:
            margin = UNKNOWN
        else:
            of = {method: len(seeds) if of_registered else len(scores) for method, scores in own.items()}
            spread = sum(variance(scores) / (of[method] if of_means else 1) for method, scores in own.items())
            margin = (errors if factor is None else factor) * spread**0.5
        missing = any(len(scores) < len(seeds) for scores in own.values())
        if (complete and missing) or (one_is_missing and single):
            return INCOMPLETE, difference, margin
        small = abs(difference) + margin < smallest
        if open_first and abs(difference) <= margin:
            return open_is, difference, margin
        if small and small_first:
            return EQUAL, difference, margin
        if abs(difference) > margin:
            return (BETTER if difference > 0 else WORSE), difference, margin
        return (EQUAL if small else open_is), difference, margin

    return rule


conclude = _concluded()


def _swapped_sign(*arguments: Any) -> Conclusion:
    verdict, difference, margin = conclude(*arguments)
    return verdict, -difference, margin


#: What the cases are: (difference, spread, the smallest that matters), and the verdict. In the sixth and the seventh
#: runs are missing, one or all but one of a method; in the last one seed is registered, and no run is missing.
_CASES = (
    (0.040, 0.010, 0.020),
    (-0.040, 0.010, 0.020),
    (0.002, 0.008, 0.040),
    (0.006, 0.012, 0.013),
    (0.020, 0.004, 0.050),
    (0.040, 0.010, 0.020),
    (0.040, 0.010, 0.020),
    (0.040, 0.010, 0.020),
)


_RIGHT = (BETTER, WORSE, EQUAL, OPEN, EQUAL, INCOMPLETE, INCOMPLETE, OPEN)


def _registered_runs(draw: Draw) -> tuple[Runs, str, str, tuple[int, ...], float, float]:
    r"""Runs of the two methods that were registered, of a third, and of seeds that nobody registered."""
    one, other = draw.pick(_ONE), draw.pick(_OTHER)
    difference, spread, smallest = _CASES[draw.kind]
    numbers = draw.order(20)
    seeds, more = tuple(sorted(numbers[: 1 if draw.kind == 7 else 5])), numbers[5:8]
    middle = draw.real(0.72, 0.78)
    while True:
        runs = []
        for method, level, shift in ((one, middle + difference, -0.05), (other, middle, 0.04), ("full", 0.86, 0.0)):
            for seed in (*seeds, *more):
                moved = level + (shift if seed in more else 0.0)
                runs.append((method, seed, round(moved + draw.real(-1.7, 1.7) * spread, 4)))
        if draw.kind == 5:
            runs = [run for run in runs if run[:2] != (other, seeds[2])]
        if draw.kind == 6:
            runs = [run for run in runs if run[0] != other or run[1] == seeds[1]]
            break
        whole = _concluded(complete=False)(tuple(runs), one, other, seeds, smallest, FIVE)
        gap, margin = abs(whole[1]), whole[2]
        near = min(abs(gap - margin), abs(gap + margin - smallest), abs(gap - smallest)) < 0.001
        told = gap > margin and gap > 0.001
        found = conclude(tuple(runs), one, other, seeds, smallest, FIVE)[0]
        within = draw.kind != 3 or gap < smallest  # still open, though what was found is small
        if within and not near and found == _RIGHT[draw.kind] and told == (draw.kind not in (2, 3, 7)):
            break
    return tuple(runs[i] for i in draw.order(len(runs))), one, other, seeds, smallest, FIVE


CONCLUDE = Exercise(
    id="hybrid-conclude", points=4, difficulty=4, minutes=20,
    secret=_registered_runs, reference=conclude,
    mutants={
        "runs of seeds that were not registered count here: who may add runs until the result pleases will find one":
            _concluded(registered=False),
        "a registered run is missing, and the others are averaged as if nothing were: say 'incomplete'":
            _concluded(complete=False),
        "one seed was registered, and its runs are there: nothing is missing. With the margin 1 nothing can be said":
            _concluded(one_is_missing=True),
        "this reads 'no clear difference' as equal; only an interval inside ±smallest says so":
            _concluded(open_is=EQUAL),
        "a difference, but too small to matter, as was registered: 'equal for practical purposes'":
            _concluded(small_first=False),
        "ask whether it is small first: an interval inside ±smallest is 'equal for practical purposes', also where "
        "it holds 0": _concluded(open_first=True),
        "divide each variance by the runs that its method has; one of them lacks some of the registered ones":
            _concluded(of_registered=True),
        "this margin is one standard error; take as many as `errors` says": _concluded(factor=1),
        "two standard errors are for a variance that is known; with few seeds it is more: `errors`":
            _concluded(factor=2),
        "this is the spread of single runs; the mean of k scatters less: divide the variances by k":
            _concluded(of_means=False),
        "a variance from a few runs divides by n - 1: statistics.variance, not pvariance":
            _concluded(variance=statistics.pvariance),
        "these are the best runs; the mean over all registered seeds decides": _concluded(mean=max),
        "the sign is the other way round: the first method's mean minus the second's": _swapped_sign,
    },
    tolerance=1e-6, kinds=8,
)  # fmt: skip


# which-method-leader --------------------------------------------------------------------------------------

#: Tasks, tables of each, methods in a table, seeds of a method.
TASKS, TABLES, METHODS, LEADER_SEEDS = 8, 100, 12, 3
#: Times the squared error of the course's answer: for all points, and for none.
ASKED, NONE = 1.15, 2.0


def _means(runs: Tensor) -> tuple[Tensor, Tensor]:
    r"""(means of the tables, leads over them of their leaders), each (tasks, tables)."""
    mean = runs.mean(-1)
    return mean.mean(-1), mean.amax(-1) - mean.mean(-1)


def _kept(share: Callable[[Tensor, Tensor], Tensor | float]) -> Callable[[Tensor], dict[str, Tensor]]:
    r"""An answer that keeps share(variance of a mean by its seeds, variance of a table's means), (tasks, 1) each, of
    every lead.
    """

    def answer(runs: Tensor) -> dict[str, Tensor]:
        middle, lead = _means(runs)
        noise, spread = runs.var(-1) / runs.shape[-1], runs.mean(-1).var(-1)
        return {"leader": middle + share(noise.mean((1, 2))[:, None], spread.mean(1)[:, None]) * lead}

    return answer


#: Drawn towards the table's mean, the further the more of a task's scatter is the seeds'.
leader = _kept(lambda noise, spread: (1 - noise / spread).clamp(0))


def _tables(draw: Draw) -> TrainingCase:
    of_seeds = draw.real(0.015, 0.025)
    share = torch.tensor([(0.1 * k + draw.real(0.15, 0.21)) for k in draw.order(TASKS)], dtype=torch.float64)
    of_methods = of_seeds * (share / (1 - share) / LEADER_SEEDS).sqrt()
    true = draw.real(0.75, 0.85) + of_methods[:, None, None] * draw.normal(TASKS, TABLES, METHODS)
    runs = true[..., None] + of_seeds * draw.normal(TASKS, TABLES, METHODS, LEADER_SEEDS)
    best = runs.mean(-1).argmax(-1, keepdim=True)
    return TrainingCase((runs,), true.gather(-1, best)[..., 0])


_BEST_RUN = "this is the best single run of the table, the luckiest of all"
_SHAPE = 'it must return {"leader": one accuracy for each table, (tasks, tables)}'
_SAME = "this keeps the same share of every lead; how much is to be kept can be seen in each task's runs"
#: By what is said of them, answers that keep a wrong share.
_WRONG_SHARES = {
    "this is the mean of the very runs that made it the leader: of twelve methods it was partly the lucky one": (
        _kept(lambda noise, spread: 1.0)
    ),
    "this is the mean of the whole table: the leader leads for a reason, too": _kept(lambda noise, spread: 0.0),
    "the scatter of the means holds the seeds' scatter too: take it off before you divide": (
        _kept(lambda noise, spread: spread / (spread + noise))
    ),
    "a mean of three seeds scatters less than one run: divide the seeds' variance by three": (
        _kept(lambda noise, spread: (1 - LEADER_SEEDS * noise / spread).clamp(0))
    ),
}


def _leader_score(posing: TrainingCase, tensors: dict[str, Tensor]) -> TrainingScore | str:
    (runs,), true = posing.arguments, posing.kept
    given = tensors.get("leader")
    if set(tensors) != {"leader"} or given is None or given.shape != true.shape:
        return _SHAPE
    given, (middle, lead) = given.double(), _means(runs)
    wrong = {said: answer(runs)["leader"] for said, answer in _WRONG_SHARES.items()} | {_BEST_RUN: runs.amax((2, 3))}
    wrong[_SAME] = middle + ((given - middle) * lead).sum() / lead.square().sum() * lead
    for said, value in wrong.items():
        if torch.allclose(given, value):
            return said
    left = ((given - true).square().mean() / (leader(runs)["leader"] - true).square().mean()).item()
    share = min(1.0, max(0.0, (NONE - left) / (NONE - ASKED)))
    found = f"the squared error is {left:.2f} times that of the course's answer; {ASKED:g} are asked"
    return TrainingScore(share, "" if share == 1.0 else found, round(left, 3))


LEADER = Training(
    id="which-method-leader", points=4, difficulty=4, minutes=20,
    seconds=60, reached="the squared error is {:.2f} times that of the course's answer", pose=_tables,
    score=_leader_score,
    mutants={
        **_WRONG_SHARES,
        _BEST_RUN: lambda runs: {"leader": runs.amax((2, 3))},
        _SAME: _kept(lambda noise, spread: 2 / 3),
        _SHAPE: lambda runs: {"leader": runs.mean((2, 3))[:1]},
    },
    fair=leader,
)  # fmt: skip
