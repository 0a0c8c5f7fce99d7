r"""Makes the solved notebook: the exercises' stubs give way to the reference answers."""

from __future__ import annotations

import ast
from pathlib import Path

from coursekit.authoring.release import exercise_of
from coursekit.batch.inputs import read
from coursekit.errors import CourseError
from coursekit.files import put_text


def solve(notebook: Path, out: Path, solutions: Path | None = None) -> list[str]:
    r"""Writes `notebook` to `out` with every exercise answered; returns the answered ids, in order.

    An exercise is a code cell with nbgrader metadata: `solution` true, a `grade_id` such as "lora-merge".
    Its answer is the function `lora_merge` in `solutions` (default: `tests/solutions/<stem>.py` of the
    checkout), with the imports and the helpers of that file that it uses. What else the cell holds stays.

    Raises CourseError where there is no exercise, no file of solutions, or no answer, and where `out` is
    anything but a notebook that an earlier call wrote and nobody has worked in since.
    """
    import nbformat

    if out.suffix != ".ipynb":
        raise CourseError(f"{out} is no name for a notebook: it must end in .ipynb")
    content = read(notebook)
    solutions = solutions or notebook.resolve().parent.parent / "tests" / "solutions" / f"{notebook.stem}.py"
    if not solutions.is_file():
        raise CourseError(f"there are no solutions for {notebook.name}: {solutions} is missing")
    answers = _Answers(solutions)
    answered = []
    for cell in content.cells:
        exercise = exercise_of(cell, notebook)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if cell.cell_type == "code" and exercise.get("solution"):
            name = exercise["grade_id"].replace("-", "_")
            cell.metadata.setdefault("coursekit", {"blank": cell.source})  # for `release`
            cell.source = _replaced(cell.source, name, answers.source(name))
            answered.append(exercise["grade_id"])
    if not answered:
        raise CourseError(f"{notebook.name} has no exercise: no cell has nbgrader metadata with solution: true")
    put_text(out, nbformat.writes(content) + "\n", sources=[notebook, solutions])
    return answered


class _Answers:
    r"""A file of reference answers, read without running it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8")
            body = ast.parse(self.text).body
        except (OSError, ValueError, SyntaxError) as error:
            raise CourseError(f"{path} is no file of solutions: {error}") from error
        self.imports: list[str] = []
        self.pieces: dict[str, ast.stmt] = {}
        for node in body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                if getattr(node, "module", "") != "__future__":
                    self.imports.append(ast.unparse(node))
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                node.decorator_list = []
                self.pieces[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    self.pieces |= {n.id: node for n in ast.walk(target) if isinstance(n, ast.Name)}

    def source(self, name: str) -> str:
        r"""Imports, what the function `name` uses of this file in the order found there, then `name`."""
        if not isinstance(self.pieces.get(name), ast.FunctionDef):
            raise CourseError(f"{self.path.name} has no answer: it must define the function {name}")
        used, todo = set(), [name]
        while todo:
            piece = todo.pop()
            if piece not in used:
                used.add(piece)
                names = {n.id for n in ast.walk(self.pieces[piece]) if isinstance(n, ast.Name)}
                todo += names & self.pieces.keys()
        helpers = list(dict.fromkeys(self.pieces[p] for p in self.pieces if p in used and p != name))
        parts = ["\n".join(self.imports)] if self.imports else []
        lines = self.text.splitlines()  # whole lines, so that comments stay
        parts += ["\n".join(lines[n.lineno - 1 : n.end_lineno]) for n in [*helpers, self.pieces[name]]]
        return "\n\n\n".join(parts)


def _replaced(source: str, name: str, answer: str) -> str:
    r"""`source` with the function `name` replaced; all of it, where there is no such function to be found."""
    try:
        nodes = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name]
    except SyntaxError:  # a half-written answer, or a line of IPython magic
        nodes = []
    if not nodes:
        return answer
    lines = source.splitlines()
    first = min([nodes[0].lineno, *(d.lineno for d in nodes[0].decorator_list)]) - 1
    return "\n".join([*lines[:first], answer, *lines[nodes[0].end_lineno :]])
