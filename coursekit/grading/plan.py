r"""The plan of a batch: the manifest, one line a submission, and what all of them have in common."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections import Counter
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.files import replace_text
from coursekit.grading import ids as ids_of
from coursekit.grading.folder import Batch
from coursekit.grading.gate import MOST_TOGETHER, Refused, read_file, shown
from coursekit.grading.limits import Limits
from coursekit.grading.one import Assignment
from coursekit.grading.package import imports
from coursekit.grading.submissions import Submission, digest, files_in, find

_LIBRARIES = ("torch", "numpy", "ipython", "papermill")


def plan(
    submissions: Path, batch: Batch, box: str, *, roster: Path | None = None, notebook: Path | None = None,
    whole: bool = False, profile: str | None = None, limits: Limits | None = None, variants: bool = False,
    groups: Path | None = None, best: bool = False, without: Collection[str] = (),
) -> tuple[list[dict[str, Any]], list[str]]:  # fmt: skip
    r"""Write manifest.jsonl and assignment.json; returns the manifest, and what whoever grades should read.

    notebook: the course's own notebook of the assignment; by default the one whose exercises most submissions hold.
    variants: every student has numbers of his own, as `grade variants` handed them out. best: of several by one student
    the best counts, also of those that are gone but were graded. without: names in the folder that are not looked at.
    """
    stems = [path.stem for path in ([notebook] if notebook else course_notebooks())]
    listed = find(submissions, roster, groups, best, without, stems)
    found = listed.submissions
    notebook = notebook or guess(found)
    parameters = _parameters(notebook, profile) if whole else {}
    ids = tuple(ids_of.of_notebook(notebook))
    assignment = Assignment(
        notebook.stem, ids, limits or Limits(), box, ids_of.CASES, whole, parameters, variants=variants,
        smoke=_smoke(notebook), handed_out=ids_of.handed_out(notebook),
    )  # fmt: skip
    common = {**dataclasses.asdict(assignment), "preload": preload(notebook)}
    environment = fingerprint(common)
    common["hints"] = ids_of.hints(notebook)  # for feedback; another hint grades nobody anew
    lines = []
    for index, one in enumerate(found):
        key = None
        if one.path is not None:
            try:
                content = digest(one.path)
            except OSError as error:  # no mark, until it can be read or is there again
                content = f"{error.errno} {one.submitted}"
                listed.said.append(f"{one.id}: {shown(one.path.name)} cannot be read: {error.strerror}")
            parts = (one.group or one.id, content, environment)
            key = hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32]
        lines.append(
            {
                "index": index,
                "submission": one.id,
                "notebook": notebook.stem,
                "key": key,
                "path": None if one.path is None else str(one.path.absolute()),
                "submitted": one.submitted,
                "person": one.person,
                "unmatched": one.unmatched,
                "group": one.group,
            }
        )
    if best:
        lines += _earlier(batch, lines)
    replace_text(batch.assignment, json.dumps(common, indent=1) + "\n")
    replace_text(batch.manifest, "".join(json.dumps(line) + "\n" for line in lines))
    return lines, listed.said


def _earlier(batch: Batch, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    r"""What the manifest had of submissions that have another content now, or are gone, and have a result."""
    there = {(line["submission"], line["key"]) for line in lines}
    ids = {line["submission"] for line in lines}
    old = [line for line in batch.lines() if line["key"]] if batch.manifest.is_file() else []
    kept = [
        line
        for line in old
        if line["submission"] in ids
        and (line["submission"], line["key"]) not in there
        and line["notebook"] == lines[0]["notebook"]
        and batch.result(line["key"])
    ]
    return [{**line, "index": n, "earlier": True} for n, line in enumerate(kept, start=len(lines))]


def _parameters(notebook: Path, profile: str | None) -> dict[str, Any]:
    r"""The values of a profile that the notebook has parameters for."""
    from coursekit.notebook.parameters import check, defaults, read_profile

    file, values = read_profile(profile, notebook.parent)
    known = defaults(notebook)
    values = {name: value for name, value in values.items() if name in known}
    check(known, values, str(file))
    return values


def _smoke(notebook: Path) -> dict[str, Any]:
    r"""As _parameters, of the course's quickest profile; nothing where the course has none."""
    for folder in (notebook.parent, *(root / "notebooks" for root in course_roots())):
        if (profile := folder / "profiles" / "smoke.yaml").is_file():
            return _parameters(notebook, str(profile))
    return {}


def guess(found: list[Submission]) -> Path:
    r"""The notebook of the course whose exercises the submissions speak of most. Raises CourseError for none."""
    course = {path: set(ids_of.of_notebook(path)) for path in course_notebooks()}
    votes: Counter[Path] = Counter()
    for one in found:
        files = [] if one.path is None else [one.path]
        if one.path is not None and one.path.is_dir():
            files = sorted(path for path in files_in(one.path) if path.suffix == ".ipynb")
        for file in files[:20]:
            try:
                there = set() if file.suffix == ".zip" else ids_of.ids_in(read_file(file, MOST_TOGETHER))
            except (OSError, Refused):  # it votes for nothing
                continue
            votes.update(path for path, ids in course.items() if ids & there)
    if not votes:
        raise CourseError("no submission contains an exercise of the course: give the notebook with --notebook")
    return votes.most_common(1)[0][0]


def course_notebooks() -> list[Path]:
    r"""The course's own notebooks, of the checkout that the package lies in or of the current folder."""
    for root in course_roots():
        paths = sorted((root / "notebooks").glob("*.ipynb"))
        if paths:
            return paths
    raise CourseError("the course's own notebooks are not here: give the assignment's with --notebook")


def course_roots() -> tuple[Path, Path]:
    r"""Where the course may lie: the checkout of the package, the current folder."""
    return Path(__file__).resolve().parents[2], Path.cwd()


def read_assignment(batch: Batch) -> tuple[Assignment, list[str]]:
    r"""What all submissions have in common, and the imports for the prefork server."""
    if not batch.assignment.is_file():
        raise CourseError(f"{batch.out} has no plan: run `coursekit grade plan` first")
    common = json.loads(batch.assignment.read_text())
    warm, _ = common.pop("preload"), common.pop("hints", None)
    common |= {"limits": Limits(**common["limits"]), "ids": tuple(common["ids"])}
    return Assignment(**common), warm


def preload(notebook: Path) -> list[str]:
    r"""Imported once for all: torch, NumPy, and what the course's notebook imports at its head and in its exercises."""
    import nbformat

    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    own: list[str] = []
    for cell in cells:
        found, alone = imports(cell.source)
        if alone or cell.metadata.get("nbgrader", {}).get("solution"):
            own += found
    # The last of these is what torch.autograd.grad imports when it is first given a gradient: a second, with sympy.
    torch = ("import torch", "import torch.nn.functional as F", "import torch.fx.experimental.symbolic_shapes")
    return list(dict.fromkeys([*torch, "import numpy", *own]))


def fingerprint(common: dict[str, Any]) -> str:
    r"""Changes with whatever a mark may depend on besides the submission: checks, grader, libraries, settings."""
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    content = [ids_of.fingerprint(), platform.python_version(), versions, common]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
