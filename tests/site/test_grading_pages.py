r"""The pages of grading in a browser: on a laptop and on a phone, and what a marker does with them."""

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
from served import Watched

from coursekit.grading import collect, feedback, marking
from tests.grading.batches import batch, part, right

pytestmark = pytest.mark.slow

LONG = "n" * 90


@pytest.fixture
def out(tmp_path: Path) -> Path:
    work = {}
    for id, answer in (("ada", "W is frozen."), ("bob", "Long: " + "x" * 300), (LONG, "short")):
        cell = {"cell_type": "markdown", "source": answer,
                "metadata": {"nbgrader": {"grade_id": "lora-essay", "solution": True, "grade": True}}}  # fmt: skip
        content = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}
        (tmp_path / f"{id}.ipynb").write_text(json.dumps(content))
        work[id] = {"exercises": right(), "path": str(tmp_path / f"{id}.ipynb")}
    work["bob"]["exercises"] = [part("lora-truncate", 0, message="the values are wrong"), *right()[1:]]
    return batch(tmp_path / "marks", work)


def test_no_page_is_wider_than_the_screen_or_says_an_error(out, browser):
    collect.collect(out)
    feedback.write(out)
    pages = [out / "index.html", marking.write(out, "lora-essay", of=4), *(out / "feedback").iterdir()]
    with Watched(browser, color_scheme="dark") as tab:
        tab.page.unroute("**/*")
        for page, width in product(pages, (1280, 360)):
            tab.page.set_viewport_size({"width": width, "height": 800})
            tab.page.goto(page.as_uri())
            assert tab.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, page.name
        assert len(pages) == 5 and not tab.wrong, tab.wrong


def test_marks_are_typed_kept_saved_and_counted(out, browser, tmp_path):
    path = marking.write(out, "lora-essay", of=4)
    with Watched(browser) as tab:
        page = tab.page
        page.unroute("**/*")
        page.goto(path.as_uri())
        ada, save = page.locator("[data-id=ada]"), page.get_by_role("button", name="Save manual.csv")
        ada.get_by_label("Points").fill("5")
        assert ada.get_by_role("alert").text_content() == "a number from 0 to 4" and save.is_disabled()
        ada.get_by_label("Points").fill("2,5")
        ada.get_by_label("Comment").fill('Say "why", please')
        bob, formula = page.locator("[data-id=bob]"), "=1+1;-2"
        bob.get_by_label("Points").fill("+1")
        bob.get_by_label("Comment").fill(formula)
        page.reload()
        assert ada.get_by_label("Points").input_value() == "2,5"
        assert page.locator("#count").text_content() == "2 of 3 marked"
        with page.expect_download() as download:
            save.click()
        shutil.copy(download.value.path(), out / "manual.csv")
        assert "bob,lora-essay,'+1,\"'=1+1;'-2\",4\n" in (out / "manual.csv").read_text(), "a formula"
        given = {e.id: p for e in collect.collect(out) for p in e.parts if p.id == "lora-essay"}
        assert (given["ada"].given, given["ada"].of, given["ada"].comment) == (2.5, 4, 'Say "why", please')
        assert (given["bob"].given, given["bob"].comment) == (1, formula)

        # The page made anew has them; and what a colleague changed in the file meanwhile wins over what was typed here.
        marking.write(out, "lora-essay", of=4)
        page.reload()
        assert ada.get_by_label("Points").input_value() == "2.5"
        assert bob.get_by_label("Comment").input_value() == formula
        ada.get_by_label("Points").fill("1")
        (out / "manual.csv").write_text("id,exercise,points,comment,of\nada,lora-essay,4,Fine,4\n")
        marking.write(out, "lora-essay", of=4)
        page.reload()
        assert ada.get_by_label("Points").input_value() == "4"
        assert "manual.csv has changed; you had typed: 1 " in ada.get_by_role("alert").text_content()
        assert not tab.wrong, tab.wrong


def test_the_gradebook_sorts_and_filters(out, browser):
    collect.collect(out)
    with Watched(browser) as tab:
        tab.page.unroute("**/*")
        tab.page.goto((out / "index.html").as_uri())
        rows = tab.page.locator("#submissions tbody tr:visible")
        tab.page.get_by_role("button", name="points").click()
        assert rows.first.locator("td").first.text_content().strip() == "bob"
        tab.page.get_by_role("button", name="points").click()
        assert rows.last.locator("td").first.text_content().strip() == "bob"
        tab.page.get_by_label("Status").select_option("wrong")
        assert rows.count() == 1 and tab.page.locator("#count").text_content() == "1 shown"
        tab.page.get_by_label("Text").fill("nobody")
        assert rows.count() == 0 and not tab.wrong
