r"""The generated cells of a notebook, and whether an exercise's cell is as it was handed out.

The set-up cell and the Colab badge are the same in every notebook. They are made here, from
`[tool.coursekit]` in `pyproject.toml`, and written by `coursekit generate`; nobody edits them by hand.
"""

from __future__ import annotations

import ast

#: Name of the distribution. `coursekit` on PyPI is somebody else's package.
DISTRIBUTION = "coursekit-finetuning"
_SETUP = """\
#@title Set-up, nothing to edit
import os, pathlib, sys  # noqa: E401, I001

sys.path[:0] = [str(p) for p in pathlib.Path("_").resolve().parents if (p / "coursekit/methods").is_dir()][:1]
missing = not any(os.path.isdir(f"{{p}}/coursekit/methods") for p in sys.path)  # PyPI's coursekit has no methods
{install}import coursekit  # noqa: F401"""
#: PyTorch, NumPy and what Colab's front end stands on stay at the versions that are there; torchao may not.
_INSTALL = """\
kept = f"{{sys.executable}} -m pip list --format freeze | grep -E '^(torch([^a]|au)|numpy|ipy|tornado|pyzmq|prompt)'"
course = "{distribution}[colab] @ git+{repository}@{tag}"
if missing and os.system(f"{{kept}} | {{sys.executable}} -m pip install -qc /dev/stdin '{{course}}'"):
    raise RuntimeError("no network? pip, above, says why it could not install coursekit; mend it, run this cell again")
"""
_UNSET = """\
if missing:
    raise RuntimeError("coursekit is not installed here: run `pip install -e .` in its folder, then `coursekit doctor`")
"""


def setup_cell(repository: str, tag: str = "main") -> str:
    r"""Source of the set-up cell: finds coursekit above the notebook or among what is installed, else installs it.

    repository: address that pip installs from, at `tag`. Where it is "", there is nothing to install from.
    """
    install = _INSTALL.format(distribution=DISTRIBUTION, repository=repository, tag=tag) if repository else _UNSET
    return _SETUP.format(install=install)


def badge(repository: str, tag: str, path: str) -> str:
    r"""Markdown that opens the file `path` of the repository on Colab, which takes files from GitHub only."""
    github = "https://github.com/"
    if not repository.startswith(github):
        return "<!-- Colab badge: `coursekit generate` writes it once pyproject.toml names the repository -->"
    target = f"https://colab.research.google.com/github/{repository.removeprefix(github)}/blob/{tag}/{path}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({target})"


def is_blank(node: ast.FunctionDef) -> bool:
    r"""Whether a function is as it was handed out: a docstring, and `return ...`, `...` or `pass`."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    for line in body:
        value = line.value if isinstance(line, ast.Return | ast.Expr) else None
        dots = isinstance(value, ast.Constant) and value.value in (..., None)
        if not (dots or isinstance(line, ast.Pass) or (isinstance(line, ast.Return) and value is None)):
            return False
    return True
