r"""Makes the student's copy of a notebook: no outputs, no answers, and checks that cannot be edited by accident."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from coursekit.authoring.refresh import clean
from coursekit.batch.inputs import read
from coursekit.errors import CourseError, number
from coursekit.files import put_text
from coursekit.notebook.cells import is_blank

STUB = "return ...  # your code instead of the dots"
#: nbgrader's delimiters; what stands between them is an answer.
_SOLUTION = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION\b.*?^[ \t]*### END SOLUTION\b[^\n]*", re.DOTALL | re.MULTILINE
)


def release(notebook: Path, out: Path) -> list[str]:
    r"""Write the student's copy of `notebook` to `out`; returns the ids of its exercises, in order.

    Outputs and execution counts go. What `solve` answered is handed out as it was before. Of what somebody else
    answered the first lines stay, signature and docstring; between `### BEGIN SOLUTION` and `### END SOLUTION` nothing
    does. Metadata is nbgrader's, schema 3: the check after
    each exercise is locked and has its points, and neither cell can be deleted.

    Raises CourseError where there is no notebook or no exercise, where an exercise has no check, and where `out` is
    anything but a copy that an earlier call wrote and nobody has worked in since.
    """
    import nbformat

    content = clean(read(notebook))
    ids: list[str] = []
    checked: list[str] = []
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        meta = exercise_of(cell, notebook)
        if meta.get("solution"):
            ids.append(meta.grade_id)
            blank = cell.metadata.pop("coursekit", {}).get("blank")
            cell.source = blank or without_answer(cell.source, meta.grade_id.replace("-", "_"))
            cell.metadata["nbgrader"] = _metadata(meta.grade_id, solution=True)
            cell.metadata["deletable"] = False
        elif meta.get("grade"):
            checked.append(meta.grade_id.removesuffix("-check"))
            cell.metadata["nbgrader"] = _metadata(meta.grade_id, points=meta.points)
            cell.metadata["deletable"] = cell.metadata["editable"] = False
    if not ids:
        raise CourseError(f"{notebook.name} has no exercise: no cell has nbgrader metadata with solution: true")
    if ids != checked:
        alone = next((id for id in ids if id not in checked), ids[0])
        raise CourseError(
            f"{notebook.name}: {alone} has no check of its own right after it; a check cell has nbgrader metadata with "
            f"grade: true and the grade_id {alone}-check."
        )
    put_text(out, nbformat.writes(content) + "\n", sources=[notebook])
    return ids


def exercise_of(cell: Any, notebook: Path) -> Any:
    r"""nbgrader's metadata of a cell, {} where it has none. CourseError where they lack a grade_id or points."""
    meta = cell.metadata.get("nbgrader", {})
    if not isinstance(meta, dict):
        raise CourseError(f"{notebook.name}: nbgrader metadata must be a dictionary; got {meta!r}")
    if (meta.get("solution") or meta.get("grade")) and not isinstance(meta.get("grade_id"), str):
        raise CourseError(f"{notebook.name}: a cell with nbgrader metadata has no grade_id, such as lora-merge")
    if meta.get("grade") and not meta.get("solution"):
        number(f"{notebook.name}: points of {meta.grade_id}", meta.get("points"), least=0, such_as=2)
    return meta


#: A place in a method that waits for code.
_BLANK = re.compile(r"^\s*(return )?\.\.\.  # your code", re.MULTILINE)
#: On the first line of a function that is handed out: it shows a class, which is the exercise, to the check.
_GIVEN = "leave it as it is"


def without_answer(source: str, name: str) -> str:
    r"""The cell of exercise `name` as it is handed out. A stub stays as it is, with all that stands around it.

    A class that is to be filled in keeps its methods' first lines, and the function that shows it to the check all.
    """
    if _SOLUTION.search(source):
        return _SOLUTION.sub(lambda m: m["indent"] + STUB, source)
    try:
        body = ast.parse(source).body
    except SyntaxError:
        raise CourseError(f"the cell of {name} is no Python: mend it, or mark its answer.") from None
    functions = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == name]
    if len(functions) != 1:
        raise CourseError(f"the cell of {name} must define the function {name} once.")
    (function,) = functions
    if is_blank(function):
        return source
    lines = source.splitlines()
    if any(_GIVEN in line for line in lines[function.lineno - 1 : function.body[0].lineno - 1]):
        methods = [m for c in body if isinstance(c, ast.ClassDef) for m in c.body]
        methods = [m for m in methods if isinstance(m, ast.FunctionDef)]
        answered = [m for m in methods if not _BLANK.search("\n".join(lines[m.lineno - 1 : m.end_lineno]))]
        return _emptied(source, body, answered) if answered else source
    # Whatever else stands in an answered cell, comments too, may be part of the answer.
    return "\n".join(_first_lines(source, function))


def _emptied(source: str, body: list[ast.stmt], answered: list[ast.FunctionDef]) -> str:
    r"""Imports, classes and functions of a cell, with nothing but the first lines of the methods `answered`."""
    lines = source.splitlines()
    parts = ["\n".join(ast.unparse(n) for n in body if isinstance(n, ast.Import | ast.ImportFrom))]
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            kept, at = list[str](), node.lineno - 1
            for method in (m for m in answered if m in getattr(node, "body", ())):
                kept += lines[at : method.lineno - 1]
                kept += [f"    {line}" for line in _first_lines(source, method)]
                at = method.end_lineno or method.lineno
            parts.append("\n".join([*kept, *lines[at : node.end_lineno]]))
    return "\n\n\n".join(filter(None, parts))


def _first_lines(source: str, function: ast.FunctionDef) -> list[str]:
    r"""Signature and docstring of a function, and the stub in the place of its answer; not indented."""
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    kept = [f"def {function.name}({ast.unparse(function.args)}){returns}:"]
    if ast.get_docstring(function) is not None:
        docstring = ast.get_source_segment(source, function.body[0]) or ""
        kept.append(f"    {docstring}")
    return [*kept, f"    {STUB.removeprefix('return ') if function.name == '__init__' else STUB}"]


def _metadata(id: str, solution: bool = False, points: float | None = None) -> dict[str, Any]:
    more = {} if points is None else {"points": points}
    flags = {"grade": not solution, "locked": not solution, "solution": solution, "task": False}
    return {"schema_version": 3, "grade_id": id, **flags, **more}
