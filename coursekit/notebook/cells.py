r"""What notebooks need besides the methods: source on display, types of parameters, and the generated cells.

The set-up cell and the Colab badge are the same in every notebook. They are made here, from
`[tool.coursekit]` in `pyproject.toml`, and written by `coursekit colab`; nobody edits them by hand.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.notebook.parameters import fits, mismatch

#: Name of the distribution. `coursekit` on PyPI is somebody else's package.
DISTRIBUTION = "coursekit-finetuning"
#: What a set-up cell leaves as it finds it: Colab's own builds, and what its front end stands on.
KEPT = (
    "torch", "torchvision", "torchaudio", "numpy", "ipykernel", "ipython", "tornado", "pyzmq", "prompt-toolkit",
)  # fmt: skip
#: What pip may move, but not that far: Colab's diffusers and gradio want this hub.
BELOW = ("huggingface-hub<2",)

_SETUP = """\
#@title Set-up, nothing to edit
# Uses the coursekit that is installed or lies in a folder above this one. On a fresh
# Colab it installs it, and leaves the PyTorch and NumPy that are there alone. (Made by `coursekit colab`.)
import subprocess
import sys
import tempfile
from importlib import invalidate_caches, metadata, util
from pathlib import Path

REPOSITORY, BRANCH = {repository}, {branch}


def missing():  # PyPI has an unrelated coursekit: ours is the one with a folder `methods`
    spec = util.find_spec("coursekit")
    return not any(Path(p, "methods").is_dir() for p in (spec and spec.submodule_search_locations) or [])


if missing():
    above = [p for p in [Path.cwd(), *Path.cwd().parents] if Path(p, "coursekit", "methods").is_dir()]
    sys.path[:0] = map(str, above[:1])
if missing():
    if not REPOSITORY:
        raise RuntimeError({unset})
    print("installing coursekit, a minute or two")
    keep = {kept}
    there = {{str(d.name).lower().replace("_", "-"): d.version for d in metadata.distributions()}}
    lines = [*(f"{{p}}=={{there[p]}}" for p in keep if p in there), *{below}]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "keep.txt").write_text("\\n".join(lines))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", f"{{folder}}/keep.txt"]
        if subprocess.run([*pip, f"git+{{REPOSITORY}}@{{BRANCH}}"]).returncode:
            raise RuntimeError(f"no network? pip (above) could not install coursekit from {{REPOSITORY}}")
    invalidate_caches()
    if "transformers" in sys.modules:
        print("transformers was imported before this cell: restart the kernel, then run all cells")

import coursekit  # noqa: F401 (before other libraries, whose notices it silences)"""

_UNSET = (
    "coursekit is not installed here, and the course has no address yet to install it from. Download the "
    "course and run `pip install -e .` in its folder. (Its authors: set `repository` in pyproject.toml, then "
    "run `coursekit colab`.)"
)


def setup_cell(repository: str, branch: str = "main") -> str:
    r"""Source of the set-up cell. With an empty `repository` it works wherever coursekit can be found."""
    source = _SETUP.format(
        repository=_quoted(repository),
        branch=_quoted(branch),
        unset=_wrapped(_UNSET),
        kept=_listed(KEPT),
        below=list(BELOW),
    )
    return source.replace("'", '"')


def _listed(names: tuple[str, ...]) -> str:
    r"""A tuple of words, broken where the cell would grow too wide."""
    lines = textwrap.wrap(", ".join(map(_quoted, names)), 90)
    return "(\n" + "".join(f"        {line}\n" for line in lines) + "    )"


def badge(repository: str, branch: str, path: str) -> str:
    r"""Markdown that opens the file `path` of the repository on Colab, which takes files from GitHub only."""
    github = "https://github.com/"
    if not repository.startswith(github):
        return "<!-- Colab badge: `coursekit colab` writes it once pyproject.toml names the repository -->"
    target = (
        f"https://colab.research.google.com/github/{repository.removeprefix(github)}/blob/{branch}/{path}"
    )
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


def expect_types(**parameters: tuple[Any, type | tuple[type, ...]]) -> None:
    r"""Raises CourseError for the first parameter of the wrong type: `expect_types(steps=(steps, int))`.

    For the cell after the papermill parameters. An int is fine for a float; True and False are no numbers.
    """
    for name, (value, kinds) in parameters.items():
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if not any(fits(value, kind) for kind in kinds):
            raise mismatch(name, value, kinds[0])


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


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _wrapped(text: str) -> str:
    r"""`text` as a string literal over several lines, for a cell that nobody has to scroll sideways."""
    lines = textwrap.wrap(text, 88, drop_whitespace=False)
    return "\n" + "\n".join(f"            {_quoted(line)}" for line in lines) + "\n        "
