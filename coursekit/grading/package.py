r"""The package as the box sees it: a copy without `checks`, `grading`, `authoring`, and a `check` that checks nothing.

References, mutants and tests are not hidden in there: they are not there.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import coursekit
from coursekit.paths import DATA

#: Rooms that hold answers, or make or judge them.
LEFT_OUT = ("checks", "grading", "authoring")
#: Name under which `coursekit/grading/inside` lies beside the copy.
INSIDE = "coursekit_box"


def copy_package(folder: Path) -> Path:
    r"""Write the box's copy into `folder`, for PYTHONPATH; returns it. Readable for everybody."""
    source = Path(coursekit.__file__).parent
    target = folder / "coursekit"
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")

    def ignore(directory: str, names: list[str]) -> set[str]:
        left = {n for n in LEFT_OUT if n in names} if Path(directory) == source else set()
        return ignored(directory, names) | left

    shutil.copytree(source, target, ignore=ignore)
    inside = source / "grading" / "inside"
    shutil.copytree(inside, folder / INSIDE, ignore=shutil.ignore_patterns("__pycache__", "checks.py"))
    (target / "checks").mkdir()
    shutil.copy(inside / "checks.py", target / "checks" / "__init__.py")
    if not (target / "data").is_dir():
        shutil.copytree(DATA, folder / "data")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def imports(source: str) -> tuple[list[str], bool]:
    r"""The import statements of a cell, and whether it does nothing else, as a lesson's cell of imports."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a line of IPython magic
        return [], False
    found = [ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return found, bool(found) and len(found) == len(body)
