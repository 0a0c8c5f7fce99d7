r"""result.json: what is stored of one submission. Two runs of a batch give the same bytes but for `times`."""

from __future__ import annotations

from typing import Any

from coursekit.grading.one import Assignment
from coursekit.grading.statuses import SAYS

SCHEMA = 1


def of_run(line: dict[str, Any], assignment: Assignment, found: dict[str, Any]) -> dict[str, Any]:
    r"""The result of a line of the manifest whose submission went through the chain."""
    return {
        "schema": SCHEMA,
        "submission": line["submission"],
        "notebook": line["notebook"],
        "key": line["key"],
        "ran": "whole" if assignment.whole else "exercises",
        "box": assignment.box,
        "unsafe": assignment.box == "none",
        **found,
    }


def of_failure(line: dict[str, Any], assignment: Assignment) -> dict[str, Any]:
    r"""The result where the grader failed twice: no mark, and nobody's fault but the grader's.

    What there was to earn is 0 where the checks, which say it, could not be loaded.
    """
    exercises = [
        {"id": id, "points": 0, "of": assignment.points.get(id, 0), "status": "infrastructure",
         "message": SAYS["infrastructure"], "cases": assignment.cases, "right": 0, "copies": 0,
         "ran": "training" if id in assignment.budgets else "questions", "measured": None}
        for id in assignment.ids
    ]  # fmt: skip
    found = {
        "status": "infrastructure", "message": SAYS["infrastructure"], "where": None, "exercises": exercises,
        "files": {}, "times": {},
    }  # fmt: skip
    return of_run(line, assignment, found)
