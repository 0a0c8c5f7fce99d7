r"""What nobody writes by hand: set-up cells, badges, lines on time and exercises, README's tables."""

from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch

from coursekit.authoring import generated
from coursekit.authoring.generated import reading_minutes, with_time
from coursekit.batch.report import Result
from coursekit.checks import every_kind
from coursekit.errors import CourseError
from coursekit.notebook.cells import setup_cell

ADDRESS = "https://github.com/owner/name"
LORA = every_kind()["lora-merge"]
README = """# Title

<!-- badges -->
old
<!-- /badges -->
<!-- lessons -->
| [01_a](notebooks/01_a.ipynb) | About a, by hand. | | | |
| [00_gone](notebooks/00_gone.ipynb) | No more. | | | |
<!-- /lessons -->
<!-- exercises -->
<!-- /exercises -->

rest
"""


def markdown(text: str, *tags: str):
    return nbformat.v4.new_markdown_cell(text, metadata={"tags": list(tags)} if tags else {})


def code(text: str, **metadata):
    return nbformat.v4.new_code_cell(text, metadata=metadata)


def lesson(*more) -> nbformat.NotebookNode:
    outputs = [nbformat.v4.new_output("stream", text="1")]
    cells = [
        markdown("# Title\n\nWhat it is about.\nMore."),
        markdown("badge", "badge"),
        code("setup", tags=["setup"]),
        nbformat.v4.new_code_cell("1", outputs=outputs, execution_count=1),
        *more,
    ]
    return nbformat.v4.new_notebook(cells=cells)


def exercise(id: str) -> list:
    asked = {"grade": False, "grade_id": id, "solution": True}
    checked = {"grade": True, "grade_id": f"{id}-check", "solution": False, "points": 99}
    return [
        markdown(f"**Exercise.** Write it.\n\n`{id}` · to be filled\n\nAnd `{id}` here stays."),
        code("def answer(): ...", nbgrader=asked),
        code("check()", nbgrader=checked),
    ]


@pytest.fixture
def checkout(tmp_path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[tool.coursekit]\nrepository = ""\ntag = "v3"\n')
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "notebooks").mkdir()
    nbformat.write(lesson(), tmp_path / "notebooks" / "01_a.ipynb")
    nbformat.write(lesson(*exercise("lora-merge")), tmp_path / "notebooks" / "02_b.ipynb")
    return tmp_path


def test_one_command_brings_everything_in_step(checkout):
    paths = [checkout / "notebooks" / "01_a.ipynb", checkout / "notebooks" / "02_b.ipynb", checkout / "README.md"]
    before = [path.read_bytes() for path in paths]
    assert generated.update(checkout, write=False) == paths
    assert [path.read_bytes() for path in paths] == before
    assert generated.update(checkout) == paths
    assert generated.update(checkout) == [] == generated.update(checkout, write=False)
    setup, other = nbformat.read(paths[0], 4).cells[2:4]
    assert setup.source == setup_cell("") and setup.metadata.jupyter.source_hidden
    assert "jupyter" not in other.metadata and other.outputs, "the rest stays as it was, outputs too"
    assert "no public address yet" in paths[2].read_text()
    settings = checkout / "pyproject.toml"
    settings.write_text(settings.read_text().replace('""', f'"{ADDRESS}.git"'))
    assert generated.update(checkout) == paths
    for path in paths[:2]:
        cells = nbformat.read(path, 4).cells
        assert f"git+{ADDRESS}@v3" in cells[2].source
        assert f"owner/name/blob/v3/notebooks/{path.name})" in cells[1].source
    readme = paths[2].read_text()
    assert "01_a.ipynb" in readme and "run it from top to bottom" in readme and readme.endswith("-->\n\nrest\n")


def test_times_points_and_tables_come_from_the_exercises(checkout):
    generated.update(checkout)
    cells = nbformat.read(checkout / "notebooks" / "02_b.ipynb", 4).cells
    assert cells[0].source.endswith(f"More.\n\n**Time:** 5 minutes of reading, {LORA.minutes} minutes of exercises.")
    stars = "★" * LORA.difficulty + "☆" * (5 - LORA.difficulty)
    told = f"`lora-merge` · {LORA.points} points · difficulty {stars} · about {LORA.minutes} minutes"
    assert cells[4].source == f"**Exercise.** Write it.\n\n{told}\n\nAnd `lora-merge` here stays."
    assert cells[6].metadata.nbgrader.points == LORA.points
    readme = (checkout / "README.md").read_text()
    assert "| [01_a](notebooks/01_a.ipynb) | About a, by hand. | 5 + 0 |  | 0 |" in readme and "00_gone" not in readme
    assert f"| What it is about. | 5 + {LORA.minutes} |  | {LORA.points} |" in readme, "a new lesson has its own words"
    assert f"2 notebooks, 1 exercises, {LORA.points} points" in readme
    assert f"| `lora-merge` | 02_b | {LORA.points} | {LORA.minutes} | {LORA.difficulty} of 5 |" in readme


def test_what_a_run_took_stays_until_the_next_run(checkout, monkeypatch):
    monkeypatch.setattr("coursekit.device.pick_device", lambda: device)
    monkeypatch.setattr("coursekit.experiments.machine.describe", lambda device: {"device": "a card", "threads": 2})
    device = torch.device("cpu")
    result = Result("a.ipynb", "ok", minutes=7.0, cpu_minutes=1.26, peak_memory=1_440_000_000)
    path = checkout / "notebooks" / "01_a.ipynb"
    book = nbformat.read(path, 4)
    book.cells[0].source = with_time(book, result)
    machine = "; the machine needs 1.3 minutes and 1.4 GB at its peak (a card, 2 threads)."
    assert book.cells[0].source.endswith(f"minutes of exercises{machine}")
    nbformat.write(book, path)
    generated.update(checkout)
    head = nbformat.read(path, 4).cells[0].source
    assert head.endswith(machine) and head.count("**Time:**") == 1
    readme = (checkout / "README.md").read_text()
    assert "| 5 + 0 | 1.3 min, 1.4 GB | 0 |" in readme and "one thread of a CPU, 1 minutes in all" in readme
    device = torch.device("cuda")
    again = with_time(book, replace(result, peak_memory=2_000_000_000))
    assert "needs 7.0 minutes and 2.0 GB" in again and again.count("**Time:**") == 1, "a GPU's own time"


def test_reading_takes_longer_the_more_there_is_to_read():
    words = markdown("word " * 1200 + "<details><summary>Answer</summary></details>")
    lines = code("x = 1\n\n" * 80)
    folded = code("x = 1\n" * 100, jupyter={"source_hidden": True})
    asked = code("x = 1\n" * 100, nbgrader={"solution": True, "grade_id": "lora-merge"})
    book = nbformat.v4.new_notebook(cells=[words])
    assert reading_minutes(book) == 10
    book.cells.append(lines)
    assert reading_minutes(book) == 20
    book.cells += [folded, asked]
    assert reading_minutes(book) == 20


def test_what_cannot_be_brought_in_step(checkout):
    readme = checkout / "README.md"
    readme.write_text(README.replace("<!-- /lessons -->", ""))
    with pytest.raises(CourseError, match="README.md has no lines <!-- lessons -->"):
        generated.update(checkout)
    nbformat.write(lesson(*exercise("lora-merges")), checkout / "notebooks" / "02_b.ipynb")
    with pytest.raises(CourseError, match="02_b.ipynb: unknown exercise 'lora-merges'; did you mean 'lora-merge'"):
        generated.update(checkout)
    nbformat.write(nbformat.v4.new_notebook(), checkout / "notebooks" / "02_b.ipynb")
    with pytest.raises(CourseError, match="02_b.ipynb has 0 cells tagged 'setup'"):
        generated.update(checkout)
    (checkout / "pyproject.toml").write_text('[tool.coursekit]\nrepository = "git@github.com:a/b; x"\n')
    with pytest.raises(CourseError, match="is no address"):
        generated.update(checkout)
    (checkout / "pyproject.toml").write_text("")
    with pytest.raises(CourseError, match="run this in the checkout"):
        generated.update(checkout)
