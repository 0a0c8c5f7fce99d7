r"""Shared by the tests of the grader: the assignment solved and blank, and whether a box can be made here."""

import json
import os
import re
import tempfile
from pathlib import Path

import pytest

from coursekit.authoring.solve import solve
from coursekit.checks import every_kind
from coursekit.checks.training import Training
from coursekit.grading import boxes
from coursekit.grading.ids import function_name
from coursekit.grading.needs import needed

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "notebooks" / "06_lora.ipynb"


def _exercises_alone(folder: Path) -> Path:
    r"""Notebook 06 with what its exercises need and nothing that trains: `test_trained_tensors` is for that, no other
    test shall wait for it, nor for the lesson's own cells where a whole notebook is run, nor for what these import:
    each box's server would, for four seconds. `test_box` has the lesson's own head.
    """
    notebook = json.loads(COURSE.read_text())
    trained = {id for id, e in every_kind().items() if isinstance(e, Training)}
    trained |= {f"{id}-check" for id in trained}
    grade = [c["metadata"].get("nbgrader", {}).get("grade_id") for c in notebook["cells"]]
    code = ["".join(c["source"]) if c["cell_type"] == "code" else "" for c in notebook["cells"]]
    kept = set(needed(code, [function_name(id) for id in grade if id and id not in trained]).cells)
    kept |= {n for n, c in enumerate(notebook["cells"]) if "parameters" in c["metadata"].get("tags", [])}
    kept |= {n for n, id in enumerate(grade) if id}
    notebook["cells"] = [c for n, c in enumerate(notebook["cells"]) if n in kept and grade[n] not in trained]
    (head,) = (c for c in notebook["cells"] if "imports" in c["metadata"].get("tags", []))
    lesson = re.compile(r"from coursekit(?!\.checks|\.notebook import)")
    head["source"] = [line for line in "".join(head["source"]).splitlines(keepends=True) if not lesson.match(line)]
    (folder / COURSE.name).write_text(json.dumps(notebook))
    return folder / COURSE.name


_FOLDER = tempfile.TemporaryDirectory()
NOTEBOOK = _exercises_alone(Path(_FOLDER.name))


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


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")
