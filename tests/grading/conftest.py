r"""Shared by the tests of the grader: the assignment solved and blank, and whether a box can be made here."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from coursekit.authoring.solve import solve
from coursekit.checks import every_kind
from coursekit.checks.training import Training
from coursekit.grading import boxes

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "notebooks" / "06_lora.ipynb"


def _without_trainings(folder: Path) -> Path:
    r"""Notebook 06 without what trains: `test_trained_tensors` is for that, and no other test shall wait for it."""
    notebook = json.loads(COURSE.read_text())
    trained = {id for id, e in every_kind().items() if isinstance(e, Training)}
    trained |= {f"{id}-check" for id in trained}
    grade = [c["metadata"].get("nbgrader", {}).get("grade_id") for c in notebook["cells"]]
    notebook["cells"] = [c for c, id in zip(notebook["cells"], grade, strict=True) if id not in trained]
    (folder / COURSE.name).write_text(json.dumps(notebook))
    return folder / COURSE.name


_FOLDER = tempfile.TemporaryDirectory()
NOTEBOOK = _without_trainings(Path(_FOLDER.name))


def cleared(path: Path) -> dict:
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return notebook


@pytest.fixture(scope="session")
def blank() -> dict:
    return cleared(NOTEBOOK)


@pytest.fixture(scope="session")
def solved(tmp_path_factory: pytest.TempPathFactory) -> dict:
    path = tmp_path_factory.mktemp("solved") / "06_lora.ipynb"
    solve(NOTEBOOK, path, ROOT / "tests" / "solutions" / "06_lora.py")
    return cleared(path)


@pytest.fixture(scope="session")
def box() -> str:
    r"""bwrap; without it the test is skipped, but for CI, where `test_ci_has_a_box` fails then."""
    problem = boxes.probe("bwrap")
    if problem is not None:
        pytest.skip(f"bubblewrap cannot make a box here: {problem}")
    return "bwrap"


#: Files whose tests look at one batch.
ONE_BATCH = ("test_batch", "test_box", "test_cheating", "test_hostile", "test_trained_tensors")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    r"""With `--dist loadgroup` one process runs the tests of one batch, so that it is graded once."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem in ONE_BATCH:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")
