r"""Shared by the tests of the grader: the assignment solved and blank, and whether a box can be made here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from coursekit.authoring.solve import solve
from coursekit.grading import boxes

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "06_lora.ipynb"


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
    solve(NOTEBOOK, path)
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
