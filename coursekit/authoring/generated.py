r"""What is written by nobody, kept in step: `coursekit generate`.

- Set-up cells and Colab badges, from the address in `pyproject.toml`. Cells of set-up and imports are folded.
- The line on each exercise and the points of its check, from `coursekit/checks`.
- The line on time in each notebook's head, from its words and its exercises; the machine's part is `refresh`'s.
- README's tables of lessons and of exercises, from the notebooks. What a lesson is about is written there by hand.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coursekit.batch.inputs import read
from coursekit.batch.report import Result
from coursekit.checks import BaseExercise, every_kind
from coursekit.errors import CourseError, unknown
from coursekit.files import replace_text
from coursekit.notebook.cells import badge, setup_cell

#: Tags of cells that a reader need not see: folded in JupyterLab, on Colab and on the pages of `coursekit run`.
FOLDED = frozenset({"setup", "imports", "asserts"})
#: Pace of readers who timed themselves: words of prose and lines of visible code a minute.
WORDS, LINES = 120, 8

#: What a run took, in a notebook's head.
_MACHINE = re.compile(r"the machine needs (?P<minutes>[\d.]+) minutes and (?P<GB>[\d.]+) GB\b.*")
_EXERCISE = re.compile(r"^`([\w-]+)` ·.*$", re.MULTILINE)
_ROW = re.compile(r"^\| \[(\w+)\]\(\S+\) \| (.*?) \|", re.MULTILINE)


def update(root: Path, *, write: bool = True) -> list[Path]:
    r"""Files under the checkout `root` whose generated parts are out of step; `write` puts them right.

    Raises CourseError for a notebook without a cell tagged `setup` or `badge`, or with an exercise that is none of the
    course; likewise for the README without a place for a table.
    """
    changed = []
    for path, new in _pieces(root, *_address(root)):
        if new != path.read_text(encoding="utf-8"):
            changed.append(path)
            if write:
                try:
                    replace_text(path.resolve(), new)
                except OSError as error:
                    raise CourseError(f"cannot write {path}: {error.strerror}") from error
    return changed


def _address(root: Path) -> tuple[str, str]:
    file = root / "pyproject.toml"
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))["tool"]["coursekit"]
    except (OSError, KeyError, ValueError) as error:
        raise CourseError(f"{file} with a [tool.coursekit] table is not here: run this in the checkout") from error
    repository = settings.get("repository", "").removesuffix("/").removesuffix(".git")
    if repository and not re.fullmatch(r"https?://[\w.~:/@-]+|file:///[\w.~/@-]+", repository):
        raise CourseError(f"repository = {repository!r} in {file} is no address: write https://github.com/OWNER/NAME")
    return repository, settings.get("tag", "main")


def _pieces(root: Path, repository: str, version: str) -> Iterator[tuple[Path, str]]:
    r"""Every file with generated parts, and the text it should have."""
    import nbformat

    known = every_kind()
    books = {}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        books[path] = notebook = read(path)
        wanted = {"setup": setup_cell(repository, version)}
        wanted["badge"] = badge(repository, version, f"notebooks/{path.name}")
        for tag, source in wanted.items():
            cells = [c for c in notebook.cells if tag in c.metadata.get("tags", [])]
            if len(cells) != 1:
                raise CourseError(f"{path.name} has {len(cells)} cells tagged {tag!r}, where there must be one")
            cells[0].source = source
        _describe_exercises(notebook, known, path.name)
        notebook.cells[0].source = with_time(notebook)
        for cell in notebook.cells:
            if FOLDED & set(cell.metadata.get("tags", [])):
                cell.metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}
        same = notebook == nbformat.read(path, as_version=4)
        yield path, path.read_text(encoding="utf-8") if same else nbformat.writes(notebook) + "\n"
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    about = dict(_ROW.findall(text))
    text = _put(text, "badges", _badges(list(books), repository, version))
    text = _put(text, "lessons", _lessons(books, about, known))
    yield readme, _put(text, "exercises", _exercises(books, known))


def _put(text: str, name: str, block: str) -> str:
    r"""`text` with `block` between the lines <!-- name --> and <!-- /name -->."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not place.search(text):
        raise CourseError(f"README.md has no lines <!-- {name} --> and <!-- /{name} --> to put the {name} between")
    return place.sub(lambda found: found[1] + block + found[2], text)


# A notebook ------------------------------------------------------------------------------------------------


def _posed(notebook: Any) -> list[str]:
    r"""Ids of the exercises of a notebook, in order."""
    asked = [c.metadata.get("nbgrader", {}) for c in notebook.cells]
    return [meta.grade_id for meta in asked if meta.get("solution")]


def _describe_exercises(notebook: Any, known: Mapping[str, BaseExercise], name: str) -> None:
    for id in _posed(notebook):
        if id not in known:
            raise CourseError(f"{name}: {unknown('exercise', id, known)}")
    for cell in notebook.cells:
        meta = cell.metadata.get("nbgrader", {})
        if meta.get("grade"):
            meta["points"] = known[meta["grade_id"].removesuffix("-check")].points
        if cell.cell_type == "markdown":
            cell.source = _EXERCISE.sub(lambda m: _line(known[m[1]]) if m[1] in known else m[0], cell.source)


def _line(exercise: BaseExercise) -> str:
    points = f"{exercise.points} point{'s' if exercise.points > 1 else ''}"
    stars = "★" * exercise.difficulty + "☆" * (5 - exercise.difficulty)
    return f"`{exercise.id}` · {points} · difficulty {stars} · about {exercise.minutes} minutes"


def reading_minutes(notebook: Any) -> int:
    r"""What reading takes, to five minutes: of the text, and of code that is neither folded nor an exercise's."""
    words = lines = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            words += len(re.sub(r"<[^>]*>|^\*\*Time:.*", " ", cell.source, flags=re.MULTILINE).split())
        elif not (cell.metadata.get("jupyter", {}).get("source_hidden") or "nbgrader" in cell.metadata):
            lines += sum(bool(line.strip()) for line in cell.source.splitlines())
    return max(5, 5 * round((words / WORDS + lines / LINES) / 5))


def with_time(notebook: Any, took: Result | None = None) -> str:
    r"""A notebook's first cell with the line on time.

    took: the run that the machine's part is of, None to leave that part as it stands: on a CPU in CPU time, since the
    machine may have had other work as well.
    """
    known = every_kind()
    exercises = sum(known[id].minutes for id in _posed(notebook) if id in known)
    said = f"**Time:** {reading_minutes(notebook)} minutes of reading, {exercises} minutes of exercises"
    lines = notebook.cells[0].source.rstrip().splitlines()
    places = [i for i, line in enumerate(lines) if line.startswith("**Time:**")]
    stood = _MACHINE.search(lines[places[0]]) if places else None
    machine = _machine(took) if took else stood[0].rstrip(".") if stood else ""
    said += f"; {machine}." if machine else "."
    if places:
        lines[places[0]] = said
        return "\n".join(lines)
    return "\n".join([*lines, "", said])


def _machine(took: Result) -> str:
    from coursekit.device import pick_device
    from coursekit.experiments import machine  # not at the top: it imports torch

    device = pick_device()
    here = machine.describe(device)
    threads = f"{here['threads']} thread{'s' if here['threads'] > 1 else ''}"
    minutes = took.cpu_minutes if device.type == "cpu" else took.minutes
    return (
        f"the machine needs {minutes:.1f} minutes and {took.peak_memory / 1e9:.1f} GB at its peak "
        f"({here['device']}, {threads})"
    )


# README ----------------------------------------------------------------------------------------------------


def _lessons(books: Mapping[Path, Any], about: Mapping[str, str], known: Mapping[str, BaseExercise]) -> str:
    rows = ["| Lesson | What it is about | Minutes: reading + exercises | Machine | Points |", "|---|---|--:|--:|--:|"]
    for path, notebook in books.items():
        own = [known[id] for id in _posed(notebook)]
        took = _MACHINE.search(notebook.cells[0].source)
        rows.append(
            f"| [{path.stem}](notebooks/{path.name}) | {about.get(path.stem) or _first_sentence(notebook)} "
            f"| {reading_minutes(notebook)} + {sum(e.minutes for e in own)} "
            f"| {'{minutes} min, {GB} GB'.format(**took.groupdict()) if took else ''} | {sum(e.points for e in own)} |"
        )
    ids = [id for notebook in books.values() for id in _posed(notebook)]
    took = [float(found["minutes"]) for n in books.values() if (found := _MACHINE.search(n.cells[0].source))]
    minutes = sum(map(reading_minutes, books.values())) + sum(known[id].minutes for id in ids)
    total = (
        f"{len(books)} notebooks, {len(ids)} exercises, {sum(known[id].points for id in ids)} points, about "
        f"{round(minutes / 60)} hours. Machine: one thread of a CPU, {sum(took):.0f} minutes in all, "
        "and the most memory it held."
    )
    return "\n".join(rows) + f"\n\n{total}\n"


def _first_sentence(notebook: Any) -> str:
    r"""Of the first paragraph below the title."""
    paragraphs = [p for p in notebook.cells[0].source.split("\n\n") if not p.startswith(("#", "**Time:**"))]
    return re.split(r"(?<=[.!?])\s", " ".join(paragraphs[0].split()))[0] if paragraphs else ""


def _exercises(books: Mapping[Path, Any], known: Mapping[str, BaseExercise]) -> str:
    rows = ["| Exercise | Notebook | Points | Minutes | Difficulty |", "|---|---|--:|--:|--:|"]
    for path, notebook in books.items():
        own = [known[id] for id in _posed(notebook)]
        rows += [f"| `{e.id}` | {path.stem} | {e.points} | {e.minutes} | {e.difficulty} of 5 |" for e in own]
    return "\n".join(rows) + "\n"


def _badges(notebooks: Sequence[Path], repository: str, version: str) -> str:
    if not badge(repository, version, "").startswith("["):
        return "On Colab and Kaggle: the course has no public address yet, so there is nothing to open there.\n"
    lines = [f"- {p.stem}: {badge(repository, version, f'notebooks/{p.name}')}\n" for p in notebooks]
    how = (
        "\nOn Colab: open a notebook and run it from top to bottom. The first cell installs the course: transformers, "
        "tokenizers, PEFT, huggingface_hub and torchao become newer, and nothing else that Colab has is moved. "
        "On Kaggle, import a notebook by its address and turn its internet on; nobody has tried the course there yet.\n"
    )
    return "".join(lines) + how
