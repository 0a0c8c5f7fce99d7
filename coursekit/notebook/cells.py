r"""What notebooks need besides the methods: source on display, and the generated cells.

The set-up cell and the Colab badge are the same in every notebook. They are made here, from
`[tool.coursekit]` in `pyproject.toml`, and written by `coursekit generate`; nobody edits them by hand.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError

#: Name of the distribution. `coursekit` on PyPI is somebody else's package.
DISTRIBUTION = "coursekit-finetuning"
_SETUP = """\
#@title Set-up, nothing to edit
import os, pathlib, sys  # noqa: E401, I001

sys.path[:0] = [str(p) for p in pathlib.Path("_").resolve().parents if (p / "coursekit/methods").is_dir()][:1]
missing = not any(os.path.isdir(f"{{p}}/coursekit/methods") for p in sys.path)  # PyPI's coursekit has no methods
{install}import coursekit  # noqa: F401"""
#: PyTorch, NumPy and what Colab's front end stands on stay at the versions that are there.
_INSTALL = """\
kept = f"{{sys.executable}} -m pip list --format freeze | grep -E '^(torch|numpy|ipy|tornado|pyzmq|prompt)'"
course = "{distribution}[colab] @ git+{repository}@{tag}"
if missing and os.system(f"{{kept}} | {{sys.executable}} -m pip install -qc /dev/stdin '{{course}}'"):
    raise RuntimeError("no network? pip, above, says why it could not install coursekit")
"""
_UNSET = """\
if missing:
    raise RuntimeError("coursekit is not installed here: run `pip install -e .` in its folder, then `coursekit doctor`")
"""


def setup_cell(repository: str, tag: str = "main") -> str:
    r"""Source of the set-up cell: finds coursekit above the notebook or among what is installed, else installs it.

    repository: address that pip installs from, at `tag`. Where it is "", there is nothing to install from.
    """
    install = (
        _INSTALL.format(distribution=DISTRIBUTION, repository=repository, tag=tag) if repository else _UNSET
    )
    return _SETUP.format(install=install)


def badge(repository: str, tag: str, path: str) -> str:
    r"""Markdown that opens the file `path` of the repository on Colab, which takes files from GitHub only."""
    github = "https://github.com/"
    if not repository.startswith(github):
        return "<!-- Colab badge: `coursekit generate` writes it once pyproject.toml names the repository -->"
    target = f"https://colab.research.google.com/github/{repository.removeprefix(github)}/blob/{tag}/{path}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({target})"


class Source:
    r"""Source code that Jupyter shows highlighted in its own theme, and a terminal as it is."""

    def __init__(self, code: str, file: str, folded: str = "") -> None:
        self.code = code
        self.file = file
        self.folded = folded

    def __repr__(self) -> str:
        return self.code

    def _repr_markdown_(self) -> str:
        shown = f"`{self.file}`\n````python\n{self.code}\n````"
        if not self.folded:
            return shown
        return f"<details><summary>{self.folded}</summary>\n\n{shown}\n\n</details>"


def show(*objects: Any, docstring: bool = True, folded: str = "") -> Source:
    r"""The source of classes, functions or methods of the package, for display at the end of a cell.

    docstring: False leaves out the docstrings of the objects themselves and of what they contain. folded: the line
    that a reader clicks to see the source.
    Raises CourseError for something that has no Python source.
    """
    pieces, files = [], []
    for thing in objects:
        thing = thing.fget if isinstance(thing, property) else thing
        thing = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
        try:
            code = textwrap.dedent(inspect.getsource(thing)).rstrip()
            file = Path(inspect.getsourcefile(inspect.unwrap(thing)) or "")
        except (TypeError, OSError) as error:
            raise CourseError(f"show: {thing!r} has no Python source") from error
        pieces.append(code if docstring else _without_docstrings(code))
        files.append(_name_in_package(file))
    return Source("\n\n\n".join(pieces), ", ".join(dict.fromkeys(files)), folded)


def _name_in_package(file: Path) -> str:
    r"""`coursekit/methods/lora.py` wherever the package lies: outputs must not depend on the machine."""
    root = Path(__file__).resolve().parents[1]
    file = file.resolve()
    return file.relative_to(root.parent).as_posix() if file.is_relative_to(root) else file.name


def _without_docstrings(code: str) -> str:
    lines = code.splitlines()
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, documented) or ast.get_docstring(node) is None:
            continue
        first, last = node.body[0].lineno, node.body[0].end_lineno or node.body[0].lineno
        alone = len(node.body) == 1  # a body of nothing but its docstring still needs a statement
        lines[first - 1 : last] = [" " * node.body[0].col_offset + "..." if alone else "\0"] + ["\0"] * (
            last - first
        )
        if not alone and last < len(lines) and not lines[last].strip():  # the blank line after it
            lines[last] = "\0"
    return "\n".join(line for line in lines if line != "\0")


def is_blank(node: ast.FunctionDef) -> bool:
    r"""Whether a function is as it was handed out: a docstring, and `return ...`, `...` or `pass`."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    for line in body:
        value = line.value if isinstance(line, ast.Return | ast.Expr) else None
        dots = isinstance(value, ast.Constant) and value.value in (..., None)
        if not (dots or isinstance(line, ast.Pass) or (isinstance(line, ast.Return) and value is None)):
            return False
    return True
