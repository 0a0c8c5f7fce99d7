r"""What a file of the repository needs to be a page, done as it is read; and MathJax."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ConfigError
from sphinx.util import logging

HERE = Path(__file__).resolve().parent
MATHJAX = HERE / "node_modules" / "mathjax" / "es5"
#: What MathJax loads besides its own file.
BESIDE = ("a11y/assistive-mml.js", "output/chtml/fonts/woff-v2")
#: A badge is a picture on another host; the words do.
BADGE = re.compile(r"\[!\[([^\]]*)\]\(https?:[^)]*\)\]\(([^)]*)\)")

#: The parts of the lecture, and the numbers of the lessons on them; any other number comes after the lecture.
PARTS = {
    "What fine-tuning is and costs": ("00", "01"),
    "Additive methods": ("02", "03", "04"),
    "Selective methods": ("05",),
    "Reparameterised methods": ("06", "07", "08"),
    "Hybrids, and the choice": ("09", "10"),
}
BEYOND = "Beyond the lecture"
#: The pages in the head of every page, and what each has below it.
SECTIONS = {"docs/lessons": "notebooks/", "docs/evidence": "data/evidence/", "docs/library": "docs/library/"}

log = logging.getLogger(__name__)
_alts: dict[str, list[str]] = {}


def read(app: Sphinx, name: str, source: list[str]) -> None:
    r"""The text of the document `name`, as it is about to be parsed."""
    if name.startswith("notebooks/"):
        source[0] = json.dumps(notebook(json.loads(source[0]), name))
    else:
        source[0] = BADGE.sub(r"[\1](\2)", source[0])
    if name == "docs/lessons":
        source[0] += lessons(app.env.found_docs)
    if name == app.config.root_doc:
        below = (name, *SECTIONS, *SECTIONS.values())
        others = sorted(page for page in app.env.found_docs if not page.startswith(below))
        source[0] += contents([*SECTIONS, *others], "hidden:")


def contents(pages: list[str], *options: str) -> str:
    lines = [*(f":{option}" for option in options), *(f"/{page}" for page in pages)]
    return "\n\n```{toctree}\n" + "\n".join(lines) + "\n```\n"


def lessons(pages: Iterable[str]) -> str:
    r"""The notebooks among `pages`, by the parts of the lecture."""
    parts: dict[str, list[str]] = {part: [] for part in (*PARTS, BEYOND)}
    for page in sorted(page for page in pages if page.startswith("notebooks/")):
        number = Path(page).name[:2]
        parts[next((part for part, numbers in PARTS.items() if number in numbers), BEYOND)].append(page)
    return "".join(contents(found, f"caption: {part}", "maxdepth: 1") for part, found in parts.items() if found)


def notebook(found: dict[str, Any], name: str) -> dict[str, Any]:
    r"""A notebook for a reader: with a line of links, without its badge, and what JupyterLab hides folded.

    Warns, which fails the build, of a cell whose output is an error and of a picture without an alt text.
    """
    cells, colab = [], ""
    for number, cell in enumerate(found["cells"]):
        tags = cell["metadata"].setdefault("tags", [])
        if "badge" in tags:
            badge = BADGE.search("".join(cell["source"]))
            colab = f" · [{badge[1]}]({badge[2]})" if badge else ""
            continue
        if cell["metadata"].get("jupyter", {}).get("source_hidden"):
            tags.append("hide-input")
        if cell["metadata"].get("nbgrader", {}).get("solution"):
            tags.append("exercise")
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                text = f"cell {number} has an error output: {output['ename']}: {output['evalue']}"
                log.warning(" ".join(text.split()), location=f"{name}.ipynb")
            if "image/png" in output.get("data", {}):
                alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
                if not alt:
                    log.warning("cell %s has a picture without an alt text", number, location=f"{name}.ipynb")
                _alts.setdefault(name, []).append(alt)
        cells.append(cell)
    file = Path(name).name + ".ipynb"
    links = f"{{download}}`Download the notebook <{file}>`{colab} · in JupyterLab: `jupyter lab {name}.ipynb`"
    cells.insert(1, {"cell_type": "markdown", "id": "links", "metadata": {}, "source": f"{links}\n"})
    return found | {"cells": cells}


def describe(app: Sphinx, tree: nodes.document) -> None:
    r"""Give the pictures of a notebook's outputs the alt texts that the outputs have, in their order."""
    alts = _alts.pop(app.env.docname, [])
    pictures = [
        image
        for output in tree.findall(nodes.container)
        if "cell_output" in output["classes"]
        for image in output.findall(nodes.image)
    ]
    for image, alt in zip(pictures, alts, strict=True):
        image["alt"] = alt


def name_as_seen(app: Sphinx, name: str, template: str, context: dict[str, Any], tree: Any) -> None:
    r"""A screen reader hears the words on what unfolds a cell, and not myst-nb's others."""
    context["body"] = context.get("body", "").replace('<summary aria-label="Toggle hidden content">', "<summary>")


def bring_mathjax(app: Sphinx) -> None:
    if not MATHJAX.is_dir():
        raise ConfigError(f"MathJax is not in {MATHJAX}: run `make site`, or `npm ci --ignore-scripts` in docs/")
    to = Path(app.outdir, "_static", "mathjax")
    for name in (app.config.mathjax_path.removeprefix("mathjax/"), *BESIDE):
        place = to / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (MATHJAX / name).is_dir():
            shutil.copytree(MATHJAX / name, place, dirs_exist_ok=True)
        else:
            shutil.copy(MATHJAX / name, place)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", bring_mathjax)
    app.connect("env-get-outdated", lambda *_: [app.config.root_doc, "docs/lessons"])  # made of what there is
    app.connect("source-read", read)
    app.connect("doctree-read", describe)
    app.connect("html-page-context", name_as_seen)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
