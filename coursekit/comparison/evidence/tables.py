r"""Evidence as a table, for a notebook: the arms that are there, each beside the one that they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from coursekit.comparison.evidence.intervals import DIGITS, Interval
from coursekit.comparison.evidence.results import Evidence
from coursekit.notebook.tables import Table

#: An interval that leaves out 0, but ends nearer to it than this, is read as a tie: few seeds give rough ends.
NEAR = 0.005
_ONLY_JUST = "only just: read it as a tie"


def arms(evidence: Evidence, labels: Mapping[str, str], reference: str) -> Table:
    r"""One row for each of `labels` (label -> arm) that was run with every seed, and its accuracy minus `reference`'s.

    Margins are half the width of a 95 % interval over test sentences and seeds; a note under the table says so. The
    last column is headed by the reference's label, where it has one.
    """
    there = {label: arm for label, arm in labels.items() if arm in evidence.arms}
    minus = reference in evidence.arms
    rows = [
        [
            label,
            evidence.parameters(arm),
            f"{evidence.rate(arm):g}",
            evidence.steps(arm),
            f"{evidence.accuracy(arm).value:.3f} ± {evidence.accuracy(arm).margin:.3f}",
            words(evidence.minus(arm, reference)) if minus and arm != reference else "–",
        ]
        for label, arm in there.items()
    ]
    named = next((label for label, arm in labels.items() if arm == reference), reference)
    columns = ["", "trained parameters", "learning rate", "steps", "test accuracy", f"minus {named}"]
    seeds = len({run.cell.seed for run in evidence.runs})
    note = (
        f"{seeds} seeds; ± is half of a 95 % interval over test sentences and seeds; each learning rate is the best on "
        "validation sentences."
    )
    return Table(columns, rows, note)


def pairs(evidence: Evidence, asked: Mapping[str, tuple[str, str]]) -> Table:
    r"""One row for each of `asked` (what is compared -> one arm, another) of which both were run with every seed: the
    first minus the second, and what that tells.
    """
    there = {label: pair for label, pair in asked.items() if set(pair) <= set(evidence.arms)}
    rows = []
    for label, (one, other) in there.items():
        found = evidence.minus(one, other)
        rows.append([label, f"{one} − {other}", repr(found), told(found, one, other)])
    return Table(["question", "arms", "difference of test accuracy (95 %)", "so"], rows)


def told(found: Interval, one: str, other: str) -> str:
    r"""Which of the two is better, by the difference `one` minus `other`, or only just; where none is told apart, how
    large a true difference would have to be to be found at least half of the time.
    """
    if not found.tells:
        return f"not told apart; a true difference of {found.margin:.3f} would be found half of the time"
    better = f"{one if found.value > 0 else other} is better"
    return better if well_apart(found) else f"{better}, but {_ONLY_JUST}"


def answer(evidence: Evidence, arm: str, other: str) -> str:
    r"""Accuracy of `arm` minus that of `other`, in words; "not measured yet" where one lacks a seed."""
    return _missing(evidence, arm, other) or words(evidence.minus(arm, other))


def change(evidence: Evidence, before: tuple[str, str], after: tuple[str, str]) -> str:
    r"""How far the difference of two arms moves from the pair `before` to the pair `after`, in words."""
    return _missing(evidence, *before, *after) or words(evidence.change(before, after))


def rates(evidence: Evidence, arm: str, other: str) -> str:
    r"""How many times the best learning rate of `other` that of `arm` is, in words."""
    one, two = (evidence.rate(a) if a in evidence.arms else 0.0 for a in (arm, other))
    return _missing(evidence, arm, other) or f"{one:g} against {two:g}, {one / two:.2g} times"


def words(found: Interval) -> str:
    r"""A difference with its interval, and a note where it is not told apart from 0, or only just."""
    if well_apart(found):
        return repr(found)
    return f"{found!r}, {_ONLY_JUST if found.tells else 'not told apart'}"


def well_apart(found: Interval) -> bool:
    r"""Whether 0 lies outside, and the interval ends no nearer to it than `NEAR`, in the digits that are printed.

    The one rule for what counts as a difference; `Interval.tells` is true of those as well that are told apart only
    just.
    """
    return max(round(found.low, DIGITS), -round(found.high, DIGITS)) >= NEAR


def _missing(evidence: Evidence, *arms: str) -> str:
    return "" if set(arms) <= set(evidence.arms) else "not measured yet"


#: (arm, learning rate, seed, validation accuracy, test accuracy)
Raced = tuple[str, float, int, float, float]


def as_race(evidence: Evidence, *arms: str) -> tuple[Raced, ...]:
    r"""The runs that chose the learning rates of `arms`, as the exercise `bitfit-verdict` takes them.

    All learning rates that were tried, those with one seed as well: they show where a search ended. A run that failed
    has accuracies of 0. () where an arm is not there yet, or its best rate has not been run with every seed.
    """
    found: list[Raced] = []
    for arm in arms:
        tried = evidence.by_rate(arm)
        if arm not in evidence.arms or evidence.rate(arm) != max(sorted(tried), key=lambda rate: tried[rate]):
            return ()
        found += [
            (arm, run.cell.rate, run.cell.seed, run.validation or 0.0, fmean(run.correct or (False,)))
            for run in evidence.searched(arm)
        ]
    return tuple(found)


def as_sweep(
    evidence: Evidence, ranks: Mapping[int, str], scale: float
) -> list[tuple[int, float, float, int, float, float]]:
    r"""Runs as the exercise `lora-sweep` takes them: r, alpha, learning rate, seed, validation and test accuracy.

    ranks: r -> arm. scale: alpha / r of all of them. Only learning rates that were run with every seed; [] where an arm
    is not there yet.
    """
    if not all(arm in evidence.arms for arm in ranks.values()):
        return []
    found = []
    for r, arm in ranks.items():
        for rate, group in evidence.whole(arm).items():
            found += [
                (r, scale * r, rate, run.cell.seed, run.validation or 0.0, fmean(run.correct))
                for run in group
            ]
    return found
