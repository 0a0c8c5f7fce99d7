r"""The grader tried on the course itself: a blank copy gets nothing, the solved one all, every mistake its message."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coursekit import checks
from coursekit.authoring.release import release
from coursekit.authoring.solve import solve
from coursekit.checks import BaseExercise, Exercise
from coursekit.checks.numeric import Numeric
from coursekit.checks.training import Training, plain
from coursekit.errors import CourseError, unknown
from coursekit.grading.ids import of_notebook
from coursekit.grading.needs import needed


@dataclass
class Finding:
    r"""What became of one notebook. of: points that it has. mistakes: how many got their own message."""

    notebook: str
    of: float = 0.0
    blank: float = 0.0
    solved: float = 0.0
    mistakes: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = f"{self.notebook}: blank {self.blank:g} of {self.of:g}, solved {self.solved:g} of {self.of:g}"
        return "\n  ".join([f"{said}, {self.mistakes} mistakes named", *self.faults])


def selftest(notebooks: Iterable[Path], secret: bytes, cases: int) -> Iterator[Finding]:
    r"""Try every exercise of `notebooks` on secret cases; one finding a notebook, as soon as it is there.

    The exercises' cells are run here, without a kernel or a box: they are the course's own. `secret` and `cases` as
    in Exercise.cases. Raises CourseError where a notebook has no exercise, no answers, or a check is missing.
    """
    known = checks.every_kind()
    with tempfile.TemporaryDirectory() as folder:
        for notebook in notebooks:
            blank, solved = Path(folder, "blank.ipynb"), Path(folder, "solved.ipynb")
            release(notebook, blank)
            solve(notebook, solved)
            finding = Finding(notebook.stem)
            for (id, stub), (_, answer) in zip(_functions(blank), _functions(solved), strict=True):
                if id not in known:
                    raise unknown("exercise", id, known)
                _try(finding, _tried(known[id], secret, cases), stub, answer)
            yield finding


class _Asked:
    r"""A function on secret cases; a number on the numbers of variant 0."""

    def __init__(self, posed: Exercise | Numeric, secret: bytes, cases: int) -> None:
        self.posed, self.own = posed, isinstance(posed, Numeric)
        self.exercise = posed.asks if isinstance(posed, Numeric) else posed
        self.cases = [posed.own(0)] if isinstance(posed, Numeric) else self.exercise.cases(secret, cases)

    def points(self, function: Any) -> float:
        r"""Of the student's function."""
        return self._points([_values(function, () if self.own else arguments) for arguments in self.cases])

    def mistake(self, function: Any) -> tuple[float, str | None, bool]:
        r"""Points of a mutant, what is said of it, and whether it ran at all."""
        values = [_values(function, arguments) for arguments in self.cases]
        ran = [(arguments, v) for arguments, given in zip(self.cases, values, strict=True) for v in given]
        said = checks.mistake(self.exercise, [a for a, _ in ran], [v for _, v in ran])
        return self._points(values), said, bool(ran)

    def _points(self, values: list[list[Any]]) -> float:
        right = sum(
            checks.judge(self.exercise, arguments, value) is None
            for arguments, given in zip(self.cases, values, strict=True)
            for value in given
        )
        return self.exercise.points * right / len(self.cases)


class _Trained:
    r"""A training on secret data."""

    def __init__(self, posed: Training, secret: bytes) -> None:
        self.posed, self.posing = posed, posed.posing(secret)

    def points(self, function: Any) -> float:
        r"""Of the student's function."""
        return self.mistake(function)[0]

    def mistake(self, function: Any) -> tuple[float, str | None, bool]:
        r"""As _Asked.mistake."""
        values = _values(function, self.posing.arguments)
        scored = [self.posed.scored(self.posing, plain(value)) for value in values]
        return (
            sum(self.posed.points * s.share for s in scored),
            scored[0].message if scored else None,
            bool(values),
        )


def _tried(posed: BaseExercise, secret: bytes, cases: int) -> _Asked | _Trained:
    if isinstance(posed, Training):
        return _Trained(posed, secret)
    if isinstance(posed, Exercise | Numeric):
        return _Asked(posed, secret, cases)
    raise TypeError(f"{posed.id} is an exercise of an unknown kind")


def _try(finding: Finding, tried: _Asked | _Trained, stub: Any, answer: Any) -> None:
    posed = tried.posed
    finding.of += posed.points
    finding.blank += (nothing := tried.points(stub))
    finding.solved += (all_of_it := tried.points(answer))
    if nothing:
        finding.faults.append(f"{posed.id}: the blank copy gets {nothing:g} of {posed.points} points")
    if all_of_it != posed.points:
        finding.faults.append(f"{posed.id}: the answer gets {all_of_it:g} of {posed.points} points")
    for message, wrong in posed.mutants.items():
        points, said, ran = tried.mistake(wrong)
        if points == posed.points or (ran and said != message):
            finding.faults.append(f"{posed.id}: {message!r} is told {said!r}")
        else:
            finding.mistakes += 1


def _values(function: Any, arguments: tuple[Any, ...]) -> list[Any]:
    r"""The one value; none where the function does not run on these arguments."""
    try:
        return [function(*copy.deepcopy(arguments))]
    except Exception:
        return []


def _functions(notebook: Path) -> list[tuple[str, Any]]:
    r"""The exercises' ids and functions, from a notebook of the course; of its cells runs what a grader would stage."""
    import nbformat

    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    names = {id: id.replace("-", "_") for id in of_notebook(notebook)}
    sources = ["" if "setup" in c.metadata.get("tags", []) else c.source for c in cells]
    space: dict[str, Any] = {}
    for _, source in sorted(needed(sources, list(names.values())).cells.items()):
        exec(compile(source, notebook.name, "exec"), space)
    for id, name in names.items():
        if not callable(space.get(name)):
            raise CourseError(f"{notebook.name}: the cell of {id} defines no function {name}")
    return [(id, space[name]) for id, name in names.items()]
