r"""One repository graded in its own workflow: the result.json that Classroom 50 reads, for classrooms on GitHub."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.files import replace_text
from coursekit.grading import gate
from coursekit.grading.batch import grade_lines
from coursekit.grading.folder import Batch

SCHEMA = "classroom50/result/v1"
#: Its scores are whole numbers: hundredths of a point.
UNIT = 100
#: Fields of the result, and where a workflow says them.
NAMES = {"classroom": "CLASSROOM", "assignment": "ASSIGNMENT", "submission": "SUBMISSION_TAG", "commit": "COMMIT_URL",
         "release": "RELEASE_URL", "review": "REVIEW_URL"}  # fmt: skip


def grade(repository: Path, result: Path, plan: Callable[[Batch, Path], Any]) -> dict[str, Any]:
    r"""Grade the checkout `repository` as one submission, and write `result`; returns what it says.

    plan: writes the manifest of a batch for a folder of submissions. Raises CourseError where the grader itself fails:
    that is no result.
    """
    if not repository.is_dir():
        raise CourseError(f"there is no folder {repository} to grade")
    owner = os.environ.get("OWNER") or os.environ.get("USERNAME") or os.environ.get("GITHUB_ACTOR") or "student"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        batch, place = Batch(Path(folder, "marks")), Path(folder, "submissions")
        batch.make()
        others = lambda _, names: [n for n in names if gate.left_out([n])]  # noqa: E731
        shutil.copytree(repository, place / "submission", symlinks=True, ignore=others)
        plan(batch, place)
        found = grade_lines(batch)
        if not found:
            raise CourseError(f"the grader itself failed: {batch.why()}")
    (graded,) = found
    tests = [
        {
            "test-name": e["id"], "passed": e["status"] == "ok", "score": round(UNIT * e["points"]),
            "max-score": UNIT * e["of"], "status": e["status"], "message": e["message"],
        }
        for e in graded["exercises"]
    ]  # fmt: skip
    said = {
        "schema": SCHEMA,
        **{field: os.environ.get(name, "") for field, name in NAMES.items()},
        "owner": owner,
        "datetime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "score": sum(t["score"] for t in tests),
        "max-score": sum(t["max-score"] for t in tests),
        "tests": tests,
        "message": graded["message"],
    }
    said["review"] = said["review"] or said["commit"]
    replace_text(result, json.dumps(said, indent=1) + "\n")
    return said
