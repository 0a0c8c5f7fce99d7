r"""The exercises by their ids alone: this imports no checks, and so no torch, into the grader's process."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from coursekit.errors import CourseError

#: How many secret cases each exercise is asked.
CASES = 8
#: By exercise, the class or function that it asks for, and the function of coursekit.notebook.built that looks at it.
#: The grader calls that itself: what a function of the student's says it found would only be believed.
LOOKS = {
    "adapters-module": ("Adapter", "adapter_module"),
    "adapters-insert": ("insert", "inserted"),
    "lora-linear": ("LoRALinear", "lora_layer"),
    "ia3-layer": ("ScaledLinear", "ia3_layer"),
    "memory-checkpoint": ("Recompute", "recomputed"),
    "intrinsic-hadamard": ("hadamard", "transform"),
    "forgetting-ewc": ("penalty", "penalty"),
    "quantization-straight": ("straight", "straight_through"),
}


def function_name(id: str) -> str:
    r"""What a student writes for exercise `id`: a function, or the class that a check looks at."""
    return LOOKS[id][0] if id in LOOKS else id.replace("-", "_")


def of_notebook(notebook: Path) -> list[str]:
    r"""The ids of the exercises in the course's own notebook, in its order."""
    import nbformat

    if not notebook.is_file():
        raise CourseError(f"there is no notebook {notebook} to take the exercises from")
    cells = nbformat.read(notebook, as_version=4).cells
    found = [c.metadata.nbgrader for c in cells if c.cell_type == "code" and "nbgrader" in c.metadata]
    ids = [n["grade_id"] for n in found if n.get("solution")]
    if not ids:
        raise CourseError(f"{notebook.name} has no exercise to grade")
    return ids


def hints(notebook: Path) -> dict[str, list[str]]:
    r"""What the course's own notebook folds away below each exercise, by id."""
    import nbformat

    found = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown" and (told := re.search(r"^`([\w-]+)` ·", cell.source, re.MULTILINE)):
            fold = r"<summary>Hint(?: \d+)?</summary>\s*(.*?)\s*</details>"
            found[told[1]] = re.findall(fold, cell.source, re.DOTALL)
    return found


def handed_out(notebook: Path) -> list[str]:
    r"""The hashes of the code cells in the course's own notebook."""
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    return [short_hash(c.source) for c in cells if c.cell_type == "code"]


def short_hash(source: str) -> str:
    r"""What tells one cell's source from another's."""
    return hashlib.sha256(source.strip().encode("utf-8", "surrogatepass")).hexdigest()[:16]


def ids_in(content: bytes) -> set[str]:
    r"""The exercise ids that a file speaks of, without reading it as a notebook: to guess the assignment."""
    return {m.decode() for m in re.findall(rb'"grade_id"\s*:\s*"([A-Za-z0-9-]{1,80})"', content)}


def fingerprint() -> str:
    r"""Changes whenever a mark could: the source of the checks and of the grader."""
    here, found = Path(__file__).parent, hashlib.sha256()
    for package in (here.parent / "checks", here):
        for path in sorted(package.rglob("*.py")):
            found.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
