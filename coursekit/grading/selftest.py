r"""The grader tried on the course itself: a blank copy gets nothing, the solved one all, every mistake its message."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coursekit.authoring.release import release
from coursekit.authoring.solve import solve
from coursekit.checks import BaseExercise
from coursekit.checks.numeric import Numeric
from coursekit.checks.training import Training, plain
from coursekit.errors import CourseError
from coursekit.grading import verdict
from coursekit.grading.ids import of_notebook
from coursekit.grading.needs import needed
from coursekit.grading.work import Work


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
    in Work. Raises CourseError where a notebook has no exercise, no answers, or a check is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        for notebook in notebooks:
            blank, solved = Path(folder, "blank.ipynb"), Path(folder, "solved.ipynb")
            release(notebook, blank)
            solve(notebook, solved)
            finding = Finding(notebook.stem)
            stubs, answers = _functions(blank), _functions(solved)
            work = Work(secret, list(stubs), cases)
            for id, posed in work.exercises.items():
                asked = [posed.own(0)] if isinstance(posed, Numeric) else work.asked[id]
                _try(finding, posed, asked, stubs[id], answers[id])
            yield finding


def _marked(posed: BaseExercise, asked: list[Any], function: Any, own: bool = False) -> tuple[float, str, bool]:
    r"""Points of a function, what the grader says of it, and whether it ran at all. own: it has its numbers already."""
    cases = [()] if own else [one.arguments if isinstance(posed, Training) else one for one in asked]
    answers = {n: value for n, arguments in enumerate(cases) for value in _values(function, arguments)}
    found = verdict.marked(posed.asks if isinstance(posed, Numeric) else posed, asked, answers, None)
    return posed.points * found.get("share", found["right"] / found["cases"]), found["message"], bool(answers)


def _try(finding: Finding, posed: BaseExercise, asked: list[Any], stub: Any, answer: Any) -> None:
    nothing, all_of_it = (_marked(posed, asked, f, isinstance(posed, Numeric))[0] for f in (stub, answer))
    finding.of += posed.points
    finding.blank += nothing
    finding.solved += all_of_it
    if nothing:
        finding.faults.append(f"{posed.id}: the blank copy gets {nothing:g} of {posed.points} points")
    if all_of_it != posed.points:
        finding.faults.append(f"{posed.id}: the answer gets {all_of_it:g} of {posed.points} points")
    for message, wrong in posed.mutants.items():
        points, said, ran = _marked(posed, asked, wrong)
        if points == posed.points or (ran and said != message):
            finding.faults.append(f"{posed.id}: {message!r} is told {said!r}")
        else:
            finding.mistakes += 1


def _values(function: Any, arguments: tuple[Any, ...]) -> list[Any]:
    r"""The one value, as it leaves a box; none where the function does not run on these arguments."""
    try:
        return [plain(function(*copy.deepcopy(arguments)))]
    except Exception:
        return []


def _functions(notebook: Path) -> dict[str, Any]:
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
    return {id: space[name] for id, name in names.items()}
