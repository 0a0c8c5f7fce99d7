r"""The students' answers beside each other: which are alike within an exercise, and all of them as files for JPlag."""

from __future__ import annotations

import ast
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError, share
from coursekit.files import folder_at, replace_text
from coursekit.grading import collect, gate, needs, pages, tables
from coursekit.grading.folder import note
from coursekit.grading.ids import function_name, of_notebook
from coursekit.notebook.cells import is_blank

#: Nodes of a syntax tree that are compared in a row, and how many an answer needs to be compared: there are not many
#: ways to write a line or two.
ROW, FEWEST = 5, 30


@dataclass(frozen=True)
class Answer:
    r"""One student's function or class, or the handed-out one. nodes: its normal form; see `normal`."""

    id: str
    exercise: str
    source: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    r"""Two answers of one exercise. alike: 1 where their normal forms are the same; same: how many have that form."""

    exercise: str
    one: Answer
    other: Answer
    alike: float
    same: int


def report(out: Path, notebook: Path, least: float = 0.8, anonymous: bool = False) -> tuple[list[Pair], list[str]]:
    r"""Write similarity.html and similarity.csv: pairs that are alike by `least` or more, the most alike first. Returns
    them, and what could not be compared.

    notebook: with the exercises, the course's own or a student's copy. Names of variables, comments, docstrings and
    layout do not count. What more than a tenth of all wrote, and more than three, is the usual answer, and no pair.
    """
    share("least", least, such_as=0.8)
    found, said = read(out, of_notebook(notebook), anonymous)
    pairs = []
    for exercise in of_notebook(notebook):
        mine = [a for a in found if a.exercise == exercise and len(a.nodes) >= FEWEST]
        forms = Counter(a.nodes for a in mine)
        rows = [{a.nodes[i : i + ROW] for i in range(len(a.nodes) - ROW + 1)} for a in mine]
        usual = {form for form, n in forms.items() if n > max(3, len(mine) / 10)}
        if usual:
            said.append(f"{exercise}: {sum(forms[f] for f in usual)} of {len(mine)} wrote what is usual; not listed")
        for (one, a), (other, b) in itertools.combinations(zip(mine, rows, strict=True), 2):
            alike = 2 * len(a & b) / (len(a) + len(b))
            if alike >= least and not {one.nodes, other.nodes} & usual:
                pairs.append(Pair(exercise, one, other, alike, forms[one.nodes] if one.nodes == other.nodes else 0))
    pairs.sort(key=lambda p: (-p.alike, p.exercise, p.one.id, p.other.id))
    head = ("exercise", "one", "other", "alike", "nodes", "with_this_form")
    lines = ((p.exercise, p.one.id, p.other.id, p.alike, len(p.one.nodes), p.same) for p in pairs)
    tables.write(out / "similarity.csv", [head, *lines])
    both = Counter((p.one.id, p.other.id) for p in pairs)
    people = [(*ids, n) for ids, n in both.most_common(50) if n > 1]
    shown = {"pairs": pairs[:200], "more": len(pairs) - 200, "said": said, "people": people}
    page = pages.page("similarity.html", least=least, **shown)
    replace_text(out / "similarity.html", page)
    note(out, "compared answers", pairs=len(pairs))
    return pairs, said


def write(out: Path, template: Path) -> tuple[Path, str]:
    r"""One folder a student under answers/students, one file an exercise; what was handed out lies in answers/template.

    template: the student's copy of the notebook, as `coursekit release` makes it. Returns the folder, and the command
    that compares. A submission that cannot be read is left out: nothing of it is run here.
    """
    if not template.is_file():
        raise CourseError(f"there is no notebook {template}: make it with `coursekit release`.")
    ids = of_notebook(template)
    folder = folder_at(out / "answers")
    handed_out = [a for a, _ in _answers("", [c.source for c in gate.notebook(template.read_bytes())], ids) if a]
    found, _ = read(out, ids)
    for answer in [*handed_out, *found]:
        place = f"students/{pages.file_name(answer.id)}" if answer.id else "template"
        replace_text(folder_at(folder / place) / f"{function_name(answer.exercise)}.py", answer.source + "\n")
    note(out, "wrote answers", submissions=len({a.id for a in found}))
    return folder, f"java -jar jplag.jar -l python3 -bc {folder / 'template'} {folder / 'students'}"


def read(out: Path, exercises: list[str], anonymous: bool = False) -> tuple[list[Answer], list[str]]:
    r"""The answers of all submissions of a batch, one for a group, without those that nobody began; and what could not
    be read, a line each.
    """
    entries = collect.read(out)
    shown = collect.without_names(out, entries) if anonymous else entries
    found: list[Answer] = []
    said: list[str] = []
    seen: set[str | None] = {None}
    for entry, other in zip(entries, shown, strict=True):
        if entry.key in seen:
            continue
        seen.add(entry.key)
        name = other.id if anonymous else entry.group or entry.id
        try:
            _, _, cells = gate.submitted(Path(entry.path), entry.notebook)
        except (gate.Refused, OSError) as error:
            said.append(f"{name}: {error}"[:200])
            continue
        for answer, problem in _answers(name, [c.source for c in cells if c.kind == "code"], exercises):
            found += [answer] if answer else []
            said += [problem] if problem else []
    return found, said


def _answers(id: str, cells: list[str], exercises: list[str]) -> Iterator[tuple[Answer | None, str]]:
    r"""By exercise the last definition, wherever it stands, or why there is none."""
    wanted = {function_name(e): e for e in exercises}
    last: dict[str, tuple[Answer | None, str]] = {}
    for source in cells:
        try:
            source, tree = needs.python(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            for name, exercise in wanted.items():
                if f"def {name}" in source or f"class {name}" in source:
                    last.setdefault(exercise, (None, f"{id}, {exercise}: it does not parse and was not compared"))
            continue
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in wanted:
                if id and isinstance(node, ast.FunctionDef) and is_blank(node):
                    continue
                text = ast.get_source_segment(source, node) or ""
                last[wanted[node.name]] = Answer(id, wanted[node.name], text, normal(node)), ""
    yield from last.values()


def normal(answer: ast.FunctionDef | ast.ClassDef) -> tuple[str, ...]:
    r"""The nodes of a syntax tree in order, variables numbered as they come, without docstrings and annotations.

    Names that the answer does not bind, such as `torch`, and attributes stay.
    """
    own: dict[str, str] = {}
    for node in ast.walk(answer):
        stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        name = node.id if stored else node.arg if isinstance(node, ast.arg) else None
        if name is not None:
            own.setdefault(name, f"${len(own)}")
    found, todo = [], [*reversed(answer.body)]
    while todo:
        node = todo.pop()
        text = [type(node).__name__]
        for field, value in ast.iter_fields(node):
            if isinstance(value, str) and field in ("id", "arg", "attr", "name"):
                text.append(own.get(value, value))
            elif field == "value" and isinstance(node, ast.Constant):
                text.append(repr(value)[:40])
        found.append(" ".join(text))
        inner: list[Any] = [n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.Load | ast.Store)]
        dropped = {id(getattr(node, "annotation", None)), id(getattr(node, "returns", None))}
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
            dropped.add(id(node.body[0]))
        todo += [n for n in reversed(inner) if id(n) not in dropped]
    if ast.get_docstring(answer, clean=False) is not None:
        found = found[2:]  # the expression, and the text in it
    return tuple(found)
