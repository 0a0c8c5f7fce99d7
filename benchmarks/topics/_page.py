r"""Cells of a lesson, run as they stand: the experiment that is stored is the one that the lesson shows."""

import ast
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


class Page(dict[str, Any]):
    r"""The names that a notebook's cells have made. Exercises that nobody has done run the course's own answers."""

    def __init__(self, stem: str):
        mpl.use("agg")
        self.cells = {c.id: c.source for c in nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4).cells}
        super().__init__(__name__=stem, display=lambda *shown: None)

    def run(self, *ids: str, only: type[ast.stmt] = ast.stmt) -> None:
        r"""Run these cells in their order. only: of each, the statements of this kind, such as `ast.FunctionDef`."""
        for name in ids:
            tree = ast.parse(self.cells[name])
            tree.body = [statement for statement in tree.body if isinstance(statement, only)]
            exec(compile(tree, name, "exec", dont_inherit=True), self)
