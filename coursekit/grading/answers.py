r"""The students' functions as .py files, for a program that looks for copied answers, such as JPlag."""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from coursekit.errors import CourseError
from coursekit.files import folder_at, replace_text
from coursekit.grading import audit, collect, pages

#: Bytes of a notebook that are read.
MOST = 20 * 2**20


def write(out: Path, template: Path) -> tuple[Path, str]:
    r"""One folder a student under answers/students, one file an exercise; what was handed out lies in answers/template.

    template: the student's copy of the notebook, as `coursekit release` makes it. Returns the folder, and the command
    that compares. A submission that cannot be read is left out: nothing of it is run here.
    """
    folder = folder_at(out / "answers")
    wanted = _exercises(template)
    _write(folder_at(folder / "template"), _functions(template, wanted))
    try:
        lines = [
            json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        ]
    except (OSError, ValueError):
        raise CourseError(f"{out} has no usable manifest: run `coursekit grade plan` first.") from None
    names = pages.file_names(collect.read(out))
    written = 0
    for line in lines:
        if line["path"]:
            name = names[line["submission"], line["notebook"]].removesuffix(".html")
            found = _functions(Path(line["path"]), wanted)
            if found:
                _write(folder_at(folder / "students" / name), found)
                written += 1
    audit.note(out, "wrote answers", submissions=written)
    return folder, f"java -jar jplag.jar -l python3 -bc {folder / 'template'} {folder / 'students'}"


def _write(folder: Path, functions: dict[str, str]) -> None:
    for name, source in functions.items():
        replace_text(folder / f"{name}.py", source + "\n")


def _exercises(template: Path) -> list[str]:
    import nbformat

    if not template.is_file():
        raise CourseError(f"there is no notebook {template}: make it with `coursekit release`.")
    cells = nbformat.read(template, as_version=4).cells
    metas = [cell.metadata.get("nbgrader", {}) for cell in cells]
    return [meta.grade_id.replace("-", "_") for meta in metas if meta.get("solution")]


def _functions(path: Path, wanted: list[str]) -> dict[str, str]:
    r"""By name, the last definition of each function, wherever in the notebook it stands."""
    found: dict[str, str] = {}
    for source in _cells(path):
        try:
            body = ast.parse(source).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in body:
            if isinstance(node, ast.FunctionDef) and node.name in wanted:
                found[node.name] = ast.get_source_segment(source, node) or ""
    return found


def _cells(path: Path) -> Iterator[str]:
    try:
        content = json.loads(_content(path))
        cells = content["cells"] if isinstance(content, dict) else []
    except (
        OSError,
        ValueError,
        KeyError,
        RecursionError,
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
    ):
        return
    for cell in cells if isinstance(cells, list) else []:
        source = cell.get("source") if isinstance(cell, dict) and cell.get("cell_type") == "code" else None
        if isinstance(source, list):
            source = "".join(part for part in source if isinstance(part, str))
        if isinstance(source, str):
            yield source


def _content(path: Path) -> bytes:
    r"""The bytes of a notebook, of the first one in a folder or in an archive; at most MOST of them."""
    if path.is_symlink():
        return b""
    if path.is_dir():
        inside = [p for p in sorted(path.rglob("*.ipynb")) if p.is_file() and not p.is_symlink()]
        path = inside[0] if inside else path
    if path.suffix == ".zip" and path.is_file():
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.endswith(".ipynb"))
            if not names:
                return b""
            with archive.open(names[0]) as file:
                return file.read(MOST)
    if not path.is_file():  # a FIFO would be waited for
        return b""
    with path.open("rb") as file:
        return file.read(MOST)
