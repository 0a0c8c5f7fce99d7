r"""The site in a browser without a network: every page, light and dark, wide and narrow."""

import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from served import ROOT, Watched

pytestmark = pytest.mark.slow

LOOKS = list(product(("light", "dark"), (1400, 400)))
#: Every page in every look; else the sample only, and the other pages take turns.
EVERY = bool(os.environ.get("EVERY_LOOK"))
SAMPLE = ("index.html", "docs/lessons.html", "docs/library/training.html", "data/evidence/lora.html", "search.html",
          "notebooks/06_lora.html")  # fmt: skip
AXE = ROOT / "docs/node_modules/axe-core/axe.min.js"
#: Pages are complete when MathJax is done, and folded parts are looked at as well.
READY = "() => !window.MathJax || MathJax.startup.promise.then(() => true)"
UNFOLD = """() => {
    document.querySelectorAll('details').forEach(d => d.open = true);
    return Promise.all(document.getAnimations().map(a => a.finished)).then(() => true);  // they fade in
}"""
FORMULAS = """() => ({
    asked: document.querySelectorAll('span.math, div.math').length,
    drawn: document.querySelectorAll('mjx-container').length,
    wrong: [...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(e => e.textContent),
})"""
LOOK = """options => axe.run(document, {resultTypes: ['violations'], ...options}).then(r => r.violations
    .filter(v => ['serious', 'critical'].includes(v.impact))
    .map(v => `${v.impact} ${v.id}: ${v.nodes.length} times, first ${v.nodes[0].html.slice(0, 200)} ` +
              `${v.nodes[0].any.map(a => a.message).join('; ')}`))"""
#: Contrast takes axe most of its time, and all pages of the library are of the same few parts: the sample has one.
WITHOUT_CONTRAST = {"rules": {"color-contrast": {"enabled": False}}}


def pages(site: Path) -> list[str]:
    return sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html") if "_static" not in p.parts)


@pytest.fixture(scope="module")
def seen(site: Path, address: str, browser: Any) -> dict[tuple[str, str, int], dict[str, Any]]:
    r"""What was found on (page, theme, width)."""
    found = {}
    turns = [(name, *LOOKS[i % 4]) for i, name in enumerate(p for p in pages(site) if p not in SAMPLE)]
    for theme, width in LOOKS:
        with Watched(browser, color_scheme=theme, viewport={"width": width, "height": 900}) as tab:
            for name in [*SAMPLE, *(n for n, *look in turns if EVERY or look == [theme, width])]:
                tab.wrong.clear()
                tab.page.goto(address + name)
                tab.page.wait_for_function(READY)
                tab.page.evaluate(UNFOLD)
                formulas = tab.page.evaluate(FORMULAS)
                over = tab.page.evaluate("document.documentElement.scrollWidth - innerWidth")
                dark = tab.page.evaluate("document.documentElement.dataset.theme") == "dark"
                tab.page.evaluate(AXE.read_text(encoding="utf-8"))
                plain = name.startswith("docs/library/") and name not in SAMPLE and not EVERY
                axe = tab.page.evaluate(LOOK, WITHOUT_CONTRAST if plain else {})
                found[name, theme, width] = {
                    "wrong": list(tab.wrong), "formulas": formulas, "over": over, "dark": dark, "axe": axe,
                }  # fmt: skip
    return found


def told(seen: dict[Any, dict[str, Any]], key: str) -> str:
    return "\n".join(f"{' '.join(map(str, at))}: {what}" for at, found in seen.items() for what in found[key])


def test_every_page_is_there(site, seen):
    stems = {f"notebooks/{p.stem}.html" for p in (ROOT / "notebooks").glob("*.ipynb")}
    cards = {f"data/evidence/{p.stem}.html" for p in (ROOT / "data/evidence").glob("*.md")}
    rooms = {f"docs/library/{p.parent.name}.html" for p in (ROOT / "coursekit").glob("*/__init__.py")}
    assert stems and cards and rooms
    assert stems | cards | rooms <= {name for name, *_ in seen} == set(pages(site))


def test_nothing_fails_and_no_other_host_is_asked(seen):
    assert told(seen, "wrong") == "", told(seen, "wrong")


def test_every_formula_is_rendered(seen):
    assert not [f"{at}: {f['formulas']}" for at, f in seen.items() if f["formulas"]["wrong"]]
    assert all(f["formulas"]["asked"] == f["formulas"]["drawn"] for f in seen.values())
    assert seen["notebooks/06_lora.html", "light", 1400]["formulas"]["drawn"] > 20


def test_axe_finds_nothing_serious(seen):
    assert told(seen, "axe") == "", told(seen, "axe")


def test_no_page_is_wider_than_the_screen(seen):
    assert not [f"{at}: {found['over']} pixels" for at, found in seen.items() if found["over"] > 0]


def test_the_theme_follows_the_system(seen):
    assert all(found["dark"] == (theme == "dark") for (_, theme, _), found in seen.items())


def test_search_finds_a_lesson(address, browser):
    with Watched(browser) as tab:
        tab.page.goto(address + "search.html?q=singular")
        hit = tab.page.locator("ul.search a", has_text="LoRA").first
        hit.wait_for()
        # A summary of each hit is fetched; leaving before they are there breaks these requests off.
        tab.page.wait_for_load_state("networkidle")
        hit.click()
        assert "notebooks/" in tab.page.url
        assert not tab.wrong


def test_hints_and_hidden_code_are_folded_with_their_formatting(address, browser):
    with Watched(browser) as tab:
        tab.page.goto(address + "notebooks/06_lora.html")
        hint = tab.page.locator("details", has=tab.page.locator("summary", has_text="Hint 1")).first
        assert not hint.locator("p").last.is_visible()
        hint.locator("summary").click()
        assert hint.locator("p").last.is_visible()
        setup = tab.page.locator("div.cell.tag_setup")
        assert setup.locator("summary").is_visible() and not setup.locator("pre").first.is_visible()


def test_a_page_of_the_library_reads_well_on_a_phone(address, browser):
    r"""Its title is on one line, explained names are a list, and beside it stand the last parts of names."""
    with Watched(browser, viewport={"width": 400, "height": 900}) as tab:
        tab.page.goto(address + "docs/library/quantization.html")
        lines = "h1 => h1.offsetHeight / parseFloat(getComputedStyle(h1).lineHeight)"
        assert tab.page.locator("h1").evaluate(lines) < 1.5
        tab.page.goto(address + "docs/library/training.html")
        assert tab.page.locator("dd li", has_text="lr: of that update.").count()
        assert "History" in tab.page.locator(".bd-sidebar-secondary a").all_text_contents()


def test_the_download_is_the_notebook(address, browser):
    with Watched(browser) as tab:
        tab.page.goto(address + "notebooks/06_lora.html")
        with tab.page.expect_download() as download:
            tab.page.get_by_role("link", name="Download the notebook").click()
        got = Path(download.value.path()).read_text(encoding="utf-8")
    assert json.loads(got) == json.loads((ROOT / "notebooks/06_lora.ipynb").read_text(encoding="utf-8"))
