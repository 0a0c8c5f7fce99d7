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
from coursekit.checks import Exercise
from coursekit.errors import CourseError, unknown


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
    known = checks.exercises()
    with tempfile.TemporaryDirectory() as folder:
        for notebook in notebooks:
            blank, solved = Path(folder, "blank.ipynb"), Path(folder, "solved.ipynb")
            release(notebook, blank)
            solve(notebook, solved)
            finding = Finding(notebook.stem)
            for (id, stub), (_, answer) in zip(_functions(blank), _functions(solved), strict=True):
                if id not in known:
                    raise unknown("exercise", id, known)
                _try(finding, known[id], stub, answer, known[id].cases(secret, cases))
            yield finding


def _try(finding: Finding, exercise: Exercise, stub: Any, answer: Any, cases: list[tuple[Any, ...]]) -> None:
    finding.of += exercise.points
    finding.blank += (nothing := _points(exercise, cases, stub))
    finding.solved += (all_of_it := _points(exercise, cases, answer))
    if nothing:
        finding.faults.append(f"{exercise.id}: the blank copy gets {nothing:g} of {exercise.points} points")
    if all_of_it != exercise.points:
        finding.faults.append(f"{exercise.id}: the answer gets {all_of_it:g} of {exercise.points} points")
    for mutant in exercise.mutants:
        ran = [(arguments, value) for arguments in cases for value in _values(mutant.function, arguments)]
        said = checks.mistake(exercise, [a for a, _ in ran], [v for _, v in ran])
        if _points(exercise, cases, mutant.function) == exercise.points or (ran and said != mutant.message):
            finding.faults.append(f"{exercise.id}: {mutant.message!r} is told {said!r}")
        else:
            finding.mistakes += 1


def _points(exercise: Exercise, cases: list[tuple[Any, ...]], function: Any) -> float:
    right = sum(
        checks.judge(exercise, arguments, value) is None
        for arguments in cases
        for value in _values(function, arguments)
    )
    return exercise.points * right / len(cases)


def _values(function: Any, arguments: tuple[Any, ...]) -> list[Any]:
    r"""The one value; none where the function does not run on these arguments."""
    try:
        return [function(*copy.deepcopy(arguments))]
    except Exception:
        return []


def _functions(notebook: Path) -> list[tuple[str, Any]]:
    r"""The exercises' ids and functions, from the cells of a notebook of the course."""
    import nbformat

    found = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            id, space = cell.metadata.nbgrader.grade_id, {}
            exec(compile(cell.source, id, "exec"), space)
            if not callable(function := space.get(id.replace("-", "_"))):
                raise CourseError(
                    f"{notebook.name}: the cell of {id} defines no function {id.replace('-', '_')}"
                )
            found.append((id, function))
    return found
