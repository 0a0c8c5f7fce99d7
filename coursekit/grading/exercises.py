r"""The exercises as the grader uses them: secret cases, judgement, and the mistake that was made."""

from __future__ import annotations

import copy
import hashlib
import hmac
import inspect
import re
from pathlib import Path
from typing import Any

from coursekit import checks
from coursekit.checks import Exercise
from coursekit.checks.compare import difference
from coursekit.errors import CourseError

#: How many secret cases each exercise is asked.
CASES = 8


def known() -> dict[str, Exercise]:
    r"""Every exercise of the course by its id, in letters, digits and hyphens."""
    return {hyphened(id): exercise for id, exercise in checks.exercises().items()}


def hyphened(id: str) -> str:
    r"""An id as nbgrader takes it: `lora.forward` and `lora_forward` are `lora-forward`."""
    return id.replace(".", "-").replace("_", "-")


def function_name(id: str) -> str:
    r"""The function that a student writes for exercise `id`."""
    return id.replace("-", "_").replace(".", "_")


def of_notebook(notebook: Path) -> list[str]:
    r"""The ids of the exercises in the course's own notebook, in its order."""
    import nbformat

    if not notebook.is_file():
        raise CourseError(f"there is no notebook {notebook} to take the exercises from")
    cells = nbformat.read(notebook, as_version=4).cells
    found = [c.metadata.nbgrader for c in cells if c.cell_type == "code" and "nbgrader" in c.metadata]
    ids = [hyphened(n["grade_id"]) for n in found if n.get("solution")]
    if not ids:
        raise CourseError(f"{notebook.name} has no exercise to grade")
    return ids


def ids_in(content: bytes) -> set[str]:
    r"""The exercise ids that a file speaks of, without reading it as a notebook: to guess the assignment."""
    return {hyphened(m.decode()) for m in re.findall(rb'"grade_id"\s*:\s*"([A-Za-z0-9_.-]{1,80})"', content)}


def cases(exercise: Exercise, id: str, secret: bytes, n: int = CASES) -> list[tuple[Any, ...]]:
    r"""`n` tuples of arguments that only the holder of `secret` can foresee."""
    own = hmac.new(secret, id.encode(), hashlib.sha256).digest()
    if hasattr(exercise, "cases"):
        return exercise.cases(own, n)
    return [exercise.inputs(seed) for seed in range(min(n, 3))]


def judge(exercise: Exercise, arguments: tuple[Any, ...], value: Any) -> str | None:
    r"""None where `value` is right, else one line."""
    if hasattr(checks, "judge"):
        return checks.judge(exercise, arguments, value)
    return difference(value, exercise.reference(*copy.deepcopy(arguments)), exercise.tolerance)


def mistake(exercise: Exercise, asked: list[tuple[Any, ...]], values: list[Any]) -> str | None:
    r"""The message of the mutant that answers as the student does; None for none of them."""
    if hasattr(checks, "mistake"):
        return checks.mistake(exercise, asked, values)
    for mutant in exercise.mutants if values else ():
        try:
            wrong = [mutant.function(*copy.deepcopy(a)) for a in asked]
            same = [difference(v, w, exercise.tolerance) is None for v, w in zip(values, wrong, strict=True)]
        except Exception:  # a mistake that does not run on these inputs is not the one that was made
            continue
        if all(same):
            return mutant.message
    return None


def fingerprint() -> str:
    r"""Changes whenever a mark could: the source of the checks and of the grader."""
    found = hashlib.sha256()
    for package in (Path(inspect.getfile(checks)).parent, Path(__file__).parent):
        for path in sorted(package.rglob("*.py")):
            found.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
