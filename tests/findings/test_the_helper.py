r"""The helper of the findings: what counts as said, and what does not."""

from __future__ import annotations

import finding
import nbformat
import pytest
from finding import said


@pytest.fixture
def page(tmp_path, monkeypatch):
    text = "## Result\n\n**LoRA** is better\nby 3 points (1 to 5).\n\n<details><summary>More</summary>\n\nIA3 is not.\n"
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("print('by 4 points')")]
    )
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "00_page.ipynb")
    monkeypatch.setattr(finding, "ROOT", tmp_path)
    return "00_page"


def test_a_phrase_is_found_over_line_ends_and_bold(page):
    said(page, "LoRA is better by 3 points (1 to 5)")


@pytest.mark.parametrize("phrase", ["better by 4 points", "by 4 points", "IA3 is not"])
def test_another_number_code_and_folds_do_not_count(page, phrase):
    with pytest.raises(pytest.fail.Exception, match="LoRA is better by 3 points"):
        said(page, phrase)
