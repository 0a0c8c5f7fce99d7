r"""Keeps the generated cells of all notebooks and the badges of the README in step with `pyproject.toml`.

Cells of set-up and imports are folded, too.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from coursekit.errors import CourseError
from coursekit.notebook.cells import badge, setup_cell

#: Tags of cells that a reader need not see: folded in JupyterLab, on Colab and on the pages of `coursekit run`.
FOLDED = frozenset({"setup", "imports"})

_BLOCK = re.compile(r"(<!-- badges -->\n).*?(<!-- /badges -->)", re.DOTALL)


def update(root: Path, *, write: bool = True) -> list[Path]:
    r"""Files under the checkout `root` whose generated parts are out of step; `write` puts them right.

    Raises CourseError for a notebook without a cell tagged `setup` or `badge`; likewise for the README.
    """
    repository, branch = _address(root)
    changed = []
    for path, new in _pieces(root, repository, branch):
        if new != path.read_text(encoding="utf-8"):
            changed.append(path)
            if write:
                path.write_text(new, encoding="utf-8")
    return changed


def _address(root: Path) -> tuple[str, str]:
    file = root / "pyproject.toml"
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))["tool"]["coursekit"]
    except (OSError, KeyError) as error:
        raise CourseError(
            f"{file} with a [tool.coursekit] table is not here: run this in the checkout"
        ) from error
    repository = settings.get("repository", "").removesuffix("/").removesuffix(".git")
    if repository and not re.fullmatch(r"https?://[\w.~:/@-]+|file:///[\w.~/@-]+", repository):
        raise CourseError(
            f"repository = {repository!r} in {file} is no address: write https://github.com/OWNER/NAME"
        )
    return repository, settings.get("branch", "main")


def _pieces(root: Path, repository: str, branch: str) -> Iterator[tuple[Path, str]]:
    r"""Every file with generated parts, and the text it should have."""
    import nbformat

    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        wanted = {"setup": setup_cell(repository, branch)}
        wanted["badge"] = badge(repository, branch, f"notebooks/{path.name}")
        for tag, source in wanted.items():
            cells = [c for c in notebook.cells if tag in c.metadata.get("tags", [])]
            if len(cells) != 1:
                raise CourseError(
                    f"{path.name} has {len(cells)} cells tagged {tag!r}, where there must be one"
                )
            cells[0].source = source
        for cell in notebook.cells:
            if FOLDED & set(cell.metadata.get("tags", [])):
                cell.metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}
        same = notebook == nbformat.read(path, as_version=4)
        yield path, path.read_text(encoding="utf-8") if same else nbformat.writes(notebook) + "\n"
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    if not _BLOCK.search(text):
        raise CourseError(
            "README.md has no lines <!-- badges --> and <!-- /badges --> to put the badges between"
        )
    yield readme, _BLOCK.sub(lambda found: found[1] + _badges(notebooks, repository, branch) + found[2], text)


def _badges(notebooks: list[Path], repository: str, branch: str) -> str:
    if not badge(repository, branch, "").startswith("["):
        return "The course has no public address yet, so there is nothing to open on Colab.\n"
    lines = [f"- {p.stem}: {badge(repository, branch, f'notebooks/{p.name}')}\n" for p in notebooks]
    how = (
        "\nOpen a notebook and run it from top to bottom. The first cell installs the course and leaves Colab's "
        "PyTorch and NumPy as they are.\n"
    )
    return "".join(lines) + how
