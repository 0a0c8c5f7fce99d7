r"""The measures of a lesson, counted in every notebook: cells, words, lines, figures, a student's minutes."""

import re
from pathlib import Path

import nbformat
import pytest

from coursekit.authoring.generated import reading_minutes
from coursekit.checks import every_kind

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
#: At most: of a lesson, and of an appendix, whose stem has a letter behind its number.
LESSON = {"cells": 45, "code cells": 25, "words": 3000, "figures": 8, "minutes": 100}
APPENDIX = {"cells": 30, "code cells": 18, "words": 2000, "figures": 5, "minutes": 50}
#: Lines of a code cell: never more than MOST, in half of the cells no more than USUAL.
USUAL, MOST = 12, 20
#: Tags of the cells before the first idea, in order.
OPENING = ["setup", "parameters", "imports"]

each_lesson = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def measures(notebook) -> dict[str, int]:
    code = [c for c in notebook.cells if c.cell_type == "code"]
    prose = [
        re.sub(r"<[^>]*>|^\*\*Time:.*", " ", c.source, flags=re.MULTILINE)
        for c in notebook.cells
        if c.cell_type == "markdown"
    ]
    posed = [c.metadata.nbgrader.grade_id for c in code if c.metadata.get("nbgrader", {}).get("solution")]
    return {
        "cells": len(notebook.cells),
        "code cells": len(code),
        "words": sum(len(text.split()) for text in prose),
        "figures": sum(len(alt_texts(c.outputs)) for c in code),
        "minutes": reading_minutes(notebook) + sum(every_kind()[id].minutes for id in posed),
    }


def alt_texts(outputs) -> list[str]:
    r"""Alt texts of the pictures among a cell's outputs, "" for each that has none."""
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    return [output.metadata.get("image/png", {}).get("alt", "") for output in pictures]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


@each_lesson
def test_every_exercise_has_a_heading(path):
    lines = [line for c in nbformat.read(path, 4).cells if c.cell_type == "markdown" for line in c.source.splitlines()]
    order = "".join(
        "h" if re.match(r"#+ .*[Ee]xercise", line) else "e" if re.match(r"`[a-z0-9-]+` · \d+ points?", line) else ""
        for line in lines
    )
    assert order and order == "he" * order.count("e"), order


@each_lesson
def test_sections_are_numbered_one_after_another_and_named_where_they_are(path):
    text = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    numbers = [int(n) for n in re.findall(r"^## (\d+) · ", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert {int(n) for n in re.findall(r"(?<!\d, )\b[Ss]ection (\d+)", text)} <= set(numbers)


@each_lesson
def test_a_lesson_keeps_its_measures(path):
    notebook = nbformat.read(path, 4)
    allowed = APPENDIX if re.match(r"\d+[a-z]_", path.stem) else LESSON
    found = measures(notebook)
    assert {name: n for name, n in found.items() if n > allowed[name]} == {}, found
    lines = [len(c.source.splitlines()) for c in notebook.cells if c.cell_type == "code"]
    assert max(lines) <= MOST and sum(n <= USUAL for n in lines) >= len(lines) // 2, lines


@each_lesson
def test_before_the_first_idea_stand_set_up_parameters_and_imports_alone(path):
    code = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    assert [next(tag for tag in tags(c) if tag in OPENING) for c in code[:3]] == OPENING


@each_lesson
def test_assertions_stand_in_the_last_cell_alone_and_folded(path):
    cells = nbformat.read(path, 4).cells
    asserting = re.compile(r"\bclaim(_same)?\(|^\s*assert\b", re.MULTILINE)
    where = [i for i, c in enumerate(cells) if c.cell_type == "code" and asserting.search(c.source)]
    assert where == [len(cells) - 1]
    assert cells[-1].metadata.jupyter.source_hidden


@each_lesson
def test_a_figure_has_its_alt_text_in_metadata_and_under_it_no_copy_of_it(path):
    for cell in nbformat.read(path, 4).cells:
        outputs = cell.get("outputs", [])
        shown = {"".join(o["data"]["text/markdown"]) for o in outputs if "text/markdown" in o.get("data", {})}
        for alt in alt_texts(outputs):
            assert len(alt) > 20 and alt != "An empty figure.", cell.id
            assert not any(alt[:40] in text.replace("\\", "") for text in shown), cell.id
