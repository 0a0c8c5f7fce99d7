r"""Marking by hand: each answer in its context, nothing of it as markup, and what was given before comes back."""

import html.parser
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coursekit.errors import CourseError
from coursekit.grading import collect, marking
from coursekit.grading.commands import app
from tests.grading.batches import batch, right
from tests.grading.test_pages import Page

EVIL = "</pre><script>alert(1)</script>"


def text(source: str, kind: str = "markdown", id: str | None = None) -> dict:
    grade = {"nbgrader": {"grade_id": id, "solution": True, "grade": True}} if id else {}
    more = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "metadata": grade, "source": source, **more}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    work = {}
    for id, answer in (("ada", "Because W is frozen."), ("bob", EVIL)):
        cells = [text("Far away"), text("Why?"), text(answer, id="lora-essay"), text("x = 1", "code"), text("The end")]
        content = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
        (tmp_path / f"{id}.ipynb").write_text(json.dumps(content))
        work[id] = {"exercises": right(), "path": str(tmp_path / f"{id}.ipynb")}
    work["cy"] = {"exercises": right(), "path": str(tmp_path / "gone.ipynb")}
    work["dee"] = None
    return batch(tmp_path / "marks", work)


class Fields(html.parser.HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.cards, self.pre, self.data = {}, [], None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, given: list) -> None:
        attributes = dict(given)
        if tag == "section" and "data-id" in attributes:
            self.cards[attributes["data-id"]] = self.now = {}
        if tag == "input":
            self.now[attributes["class"]] = attributes["value"]
        if tag == "template":
            self.data = json.loads(attributes["data-json"])


def test_each_answer_stands_in_its_context_and_no_markup(out):
    path = marking.write(out, "lora-essay", of=4)
    page = Page(path)
    assert page.tags.count("script") == 1 and not any(name.startswith("on") for _, name, _ in page.attributes)
    said = " ".join(page.text)
    for there in ("Because W is frozen.", "Why?", "x = 1", "<script>alert(1)</script>", "cannot be read"):
        assert there in said, there
    assert "Far away" not in said and "The end" not in said
    assert list(Fields(path).cards) == ["ada", "bob", "cy"]  # dee handed in nothing


def test_what_was_given_before_comes_back_with_the_rest_of_the_file(out):
    rows = "ada,lora-essay,2.5,Nice,4\nada,lora-count,0,copied,\nbob,lora-essay,1,Too short,4\n"
    (out / "manual.csv").write_text(f"id,exercise,points,comment,of\n{rows}")
    found = Fields(marking.write(out, "lora-essay"))
    assert found.cards["ada"] == {"points": "2.5", "comment": "Nice"} and found.cards["cy"]["points"] == ""
    assert found.data == {
        "exercise": "lora-essay", "of": 4.0, "own": False, "columns": ["id", "exercise", "points", "comment", "of"],
        "rows": [["ada", "lora-count", "0", "copied", ""]],
    }  # fmt: skip
    assert 'value="Too short"' in (out / "marking").joinpath(found_name(out)).read_text()


def found_name(out: Path) -> str:
    (path,) = (out / "marking").iterdir()
    return path.name


def test_what_nobody_has_and_points_that_nobody_knows_are_said(out):
    with pytest.raises(CourseError, match="say of how many points it is: --of 4"):
        marking.write(out, "lora-essay")
    with pytest.raises(CourseError, match="unknown exercise 'lora-eassy'"):
        marking.write(out, "lora-eassy", of=4)


def test_the_command_names_the_page_to_open(out):
    done = CliRunner().invoke(app, ["marking", str(out), "--exercise", "lora-essay", "--of", "4"])
    assert (done.exit_code, done.output) == (0, f"open {out / 'marking' / found_name(out)}\n")


def test_under_pseudonyms_no_id_is_on_the_page_and_the_marks_find_their_owner(out):
    path = marking.write(out, "lora-essay", of=4, anonymous=True)
    ids = list(Fields(path).cards)
    assert len(ids) == 3 and all(id.startswith("p-") for id in ids) and "bob" not in path.read_text()
    (out / "manual.csv").write_text("id,exercise,points,of\n" + "".join(f"{id},lora-essay,3,4\n" for id in ids))
    assert [e.total for e in collect.collect(out) if e.key] == [9, 9, 9]
