r"""How pages are made of the repository's files, and what fails the build."""

import importlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from served import ROOT

from coursekit.methods import LoRA


@pytest.fixture
def pages(can_build, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("pages")


@pytest.fixture
def library(can_build, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("library")


def cell(source: str, kind: str = "code", *, id: str, **parts) -> dict:
    outputs = {"outputs": [], "execution_count": 1} if kind == "code" else {}
    return {"cell_type": kind, "id": id, "metadata": {}, "source": source, **outputs, **parts}


def notebook(*cells: dict) -> dict:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": list(cells), "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def test_the_badge_becomes_a_link_and_hidden_code_is_folded(pages):
    badge = "[![Open in Colab](https://host.test/badge.svg)](https://host.test/open)"
    made = pages.notebook(
        notebook(
            cell("# 6 · LoRA", "markdown", id="a"),
            cell(badge, "markdown", id="b", metadata={"tags": ["badge"]}),
            cell("1", id="c", metadata={"jupyter": {"source_hidden": True}}),
            cell("2", id="d", metadata={"nbgrader": {"solution": True}}),
        ),
        "notebooks/06_lora",
    )
    title, links, hidden, mine = made["cells"]
    assert title["source"] == "# 6 · LoRA"
    assert "[Open in Colab](https://host.test/open)" in links["source"] and "badge.svg" not in links["source"]
    assert hidden["metadata"]["tags"] == ["hide-input"] and mine["metadata"]["tags"] == ["exercise"]


def test_lessons_stand_in_the_order_of_the_lecture(pages):
    stems = ["06b_x", "00_a", "10_z", "02_b", "12_ship", "06_c"]
    made = pages.lessons({f"notebooks/{stem}" for stem in stems} | {"CONTRIBUTING"})
    places = [made.index(f"/notebooks/{stem}\n") for stem in ("00_a", "02_b", "06_c", "06b_x", "10_z", "12_ship")]
    assert places == sorted(places)
    assert made.index("Reparameterised") < places[2] < made.index("Hybrids") < places[4] < made.index("Beyond")
    assert "Selective" not in made and "CONTRIBUTING" not in made


def test_names_that_a_docstring_explains_are_a_list(library):
    def update(W, r: int, s: float, *, alpha: float, start: int = 0):
        r"""W plus an update: see `add`. Here r: d holds.

        r: rank, such as 8; s: scale
        of it. Papers differ: some call it alpha. W, `alpha`: as in peft. Raises CourseError where r: is 0.

        As in peft: start: 1, 2, …
        """

    assert library.listed(update) == (
        "W plus an update: see `add`. Here r: d holds.\n\n- `r`: rank, such as 8.\n- `s`: scale of it. "
        "Papers differ: some call it alpha.\n- `W`, `alpha`: as in peft.\n\n"
        "Raises CourseError where r: is 0.\n\nAs in peft:\n\n- `start`: 1, 2, …"
    )


def test_fields_that_a_docstring_explains_stand_below_their_class(library):
    made = library.entry(LoRA, "coursekit.methods.LoRA")
    assert "\n\n- `r`: rank of the update.\n- `alpha`: the update is scaled by" in made
    assert "\n\nAs in peft:\n\n- `rank_pattern`, `alpha_pattern`: r and alpha" in made


@pytest.mark.slow
def test_every_fault_is_one_line_with_its_place(can_build, tmp_path):
    r"""An error output, a picture without an alt text, a missing page, a broken anchor, a picture elsewhere."""
    for name in ("data/evidence", "notebooks"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("node_modules", "library", "_*"))
    (tmp_path / "docs/node_modules").symlink_to(ROOT / "docs/node_modules")
    (tmp_path / "README.md").write_text("# Course\n\n[gone](notebooks/07_gone.ipynb), [part](#nowhere)\n")
    (tmp_path / "data/evidence/card.md").write_text('# Card\n\n<img src="https://host.test/x.png" alt="x">\n')
    (tmp_path / "data/evidence/raw.md").write_text('# Raw\n\n<a href="missing.html">a</a>, <a href="#none">b</a>\n')
    error = {"output_type": "error", "ename": "NameError", "evalue": "name 'x' is\nunknown", "traceback": []}
    picture = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "aGk="}}
    made = notebook(
        cell("# 6 · Broken", "markdown", id="a"),
        cell("x", id="b", outputs=[error]),
        cell("p", id="c", outputs=[picture]),
    )
    (tmp_path / "notebooks/06_broken.ipynb").write_text(json.dumps(made))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # Without the pages of the library, which take longest and show none of these.
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", "out/site"]
    command += ["-D", "extensions=myst_nb,pages,proof"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    lines = done.stderr.splitlines()
    for place, fault in (
        ("notebooks/06_broken.ipynb", "cell 1 has an error output: NameError: name 'x' is unknown"),
        ("notebooks/06_broken.ipynb", "cell 2 has a picture without an alt text"),
        ("README.md:3", "07_gone.ipynb"),
        ("README.md:3", "nowhere"),
        ("data/evidence/card.html", "loads https://host.test/x.png from another host"),
        ("data/evidence/raw.html", "broken link to missing.html"),
        ("data/evidence/raw.html", "broken anchor #none"),
    ):
        assert any(place in line and fault in line for line in lines), (place, fault, done.stderr)
