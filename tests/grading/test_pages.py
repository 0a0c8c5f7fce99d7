r"""The gradebook and the pages: every mark where it belongs, and nothing of a submission ever as markup."""

import csv
import html.parser
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from coursekit.errors import CourseError
from coursekit.grading import collect, feedback, ids, pages, pseudonyms
from tests.grading.batches import HOSTILE, OF, SECRET, batch, part, right

MISTAKE = "the scale is alpha / r, not alpha"


class Page(html.parser.HTMLParser):
    r"""What a browser would make of a page: its tags, and its text by row."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.text, self.rows = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag in ("br", "li") and self.rows and self.rows[-1]:
            self.rows[-1][-1] += "\n"

    def handle_data(self, data):
        self.text.append(data)
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def cells(self):
        return [[" ".join(cell.split()) for cell in row] for row in self.rows]


def book(out):
    with (out / "gradebook.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


@pytest.fixture
def out(tmp_path):
    wrong = [
        part("lora-truncate", 2),
        part("lora-linear", 1.5, message=MISTAKE),
        part("lora-count", 0, "not_attempted"),
    ]
    return batch(tmp_path / "marks", {
        "ada": {"person": {"id": "ada", "name": "Ada L.", "email": "ada@example.org"}},
        "bob": wrong,
        "cy": {"status": "infrastructure", "message": "the grader failed, not you",
               "exercises": [part(id, 0, "infrastructure") for id in OF]},
        "dee": {"waiting": True},
        "eve": None,
        "fay": {"status": "timeout", "where": "cell 12", "message": "cell 12: it takes longer than it may",
                "exercises": [part(id, 0, "timeout", "it ran out of time") for id in OF]},
    })  # fmt: skip


def test_the_gradebook_has_every_mark_and_no_mark_where_there_is_none(out):
    entries = collect.collect(out)
    assert [e.id for e in entries] == ["ada", "bob", "cy", "dee", "eve", "fay"]
    rows = book(out)
    assert {id: (r["total"], r["of"], r["status"]) for id, r in rows.items()} == {
        "ada": ("6", "6", "ok"), "bob": ("3.5", "6", "wrong"), "cy": ("", "6", "infrastructure"),
        "dee": ("", "6", "waiting"), "eve": ("0", "6", "not_handed_in"), "fay": ("0", "6", "timeout"),
    }  # fmt: skip
    assert [rows["bob"][id] for id in OF] == ["2", "1.5", "0"] and rows["cy"]["lora-count"] == ""
    assert rows["ada"]["email"] == "ada@example.org" and rows["fay"]["where"] == "cell 12"


def test_the_summary_says_how_each_exercise_went(out):
    collect.collect(out)
    summary = json.loads((out / "summary.json").read_text())
    notebook = summary["notebooks"]["06_lora"]
    assert (summary["submissions"], summary["unsafe"], summary["statuses"]["infrastructure"]) == (6, False, 1)
    # Three have a mark for what they handed in: 6, 3.5 and 0.
    assert (notebook["marked"], notebook["mean"], notebook["median"], notebook["of"]) == (3, 3.17, 3.5, 6)
    forward = next(e for e in notebook["exercises"] if e["id"] == "lora-linear")
    assert (forward["passed"], forward["tried"], forward["submissions"]) == (1, 3, 3)
    assert forward["mistakes"] == [{"message": MISTAKE, "count": 1}, {"message": "timeout", "count": 1}]
    assert sum(bar["count"] for bar in notebook["histogram"]) == 3


@pytest.mark.parametrize("totals, of, bars", [
    ([0, 1, 5.5, 6], 6, [("0-0.5", 1), ("1-1.5", 1), ("5.5-6", 2)]),
    ([16, 17, 15.9, 0], 16, [("0-2", 1), ("14-16", 3)]), ([], 5, []), ([0, 0], 0, [("0-0", 2)]),
    ([100], 100, [("90-100", 1)]),
])  # fmt: skip
def test_the_histogram_counts_everybody_once(totals, of, bars):
    found = collect.histogram(totals, of)
    assert [(f"{b['from']:g}-{b['to']:g}", b["count"]) for b in found if b["count"]] == bars
    assert len(found) <= 12 and all(a["to"] == b["from"] for a, b in zip(found, found[1:], strict=False))


def test_the_index_shows_marks_mistakes_and_statuses(out):
    collect.collect(out)
    page = Page(out / "index.html")
    rows = {row[0].split()[0]: row for row in page.cells() if len(row) == 4}
    assert rows["ada"][1:3] == ["6 of 6", "correct"] and rows["ada"][0] == "ada Ada L."
    assert rows["bob"][1:3] == ["3.5 of 6", "wrong"] and rows["cy"][1:3] == ["– of 6", "grader error"]
    assert rows["lora-linear"][1] == "1 of 3" and f"1 × {MISTAKE}" in rows["lora-linear"][3]
    assert "1 × timed out" in rows["lora-linear"][3]
    values = {v for t, k, v in page.attributes if (t, k) == ("option", "value")}
    assert values == {"", "ok", "wrong", "timeout", "infrastructure", "waiting", "not_handed_in"}
    assert "without isolation" not in " ".join(page.text)
    link = next(v for t, k, v in page.attributes if (t, k) == ("a", "href"))
    feedback.write(out)
    assert (out / link).is_file()


def test_work_without_isolation_is_stamped_on_the_page(tmp_path):
    out = batch(tmp_path, {"ada": {"unsafe": True, "box": "none"}, "bob": right()})
    collect.collect(out)
    assert "Graded without isolation" in (out / "index.html").read_text()
    assert book(out)["ada"]["unsafe"] == "True" and book(out)["bob"]["unsafe"] == "False"


def test_feedback_has_the_mistake_and_hints_and_no_numbers_of_cases(out):
    hints = ids.hints(Path(__file__).resolve().parents[2] / "notebooks" / "06_lora.ipynb")
    (out / "assignment.json").write_text(json.dumps({"hints": hints}))
    assert len(feedback.write(out)) == 6
    page = Page(out / "feedback" / "bob.html")
    text = " ".join(" ".join(page.text).split())
    assert "3.5 of 6 points" in text and MISTAKE in text and "Correct for 4 of the 8 inputs" in text
    assert "Hint 1 of 3" in text and "An optimizer asks the module for its parameters." in text
    assert "Keep the first r columns" not in text, "a hint of an exercise that is right"
    assert "no mark yet" in (out / "feedback" / "cy.html").read_text()
    assert "12" in (out / "feedback" / "fay.html").read_text()


EVIL = "</p></script><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\u202e\x00\n"


def test_nothing_of_a_submission_is_ever_markup(tmp_path):
    exercises = [part(id, 0, "error", EVIL) for id in OF]
    exercises[0] |= {"status": "wrong"}
    exercises[1] |= {"status": EVIL}
    work = {id: {"exercises": exercises, "message": EVIL, "status": EVIL, "where": EVIL, "person": {"name": EVIL}}
            for id in HOSTILE}  # fmt: skip
    out = batch(tmp_path / "marks", work)
    (out / "manual.csv").write_text("id,exercise,points,comment\nann,lora-count,1,<b>&amp;</b>\n")
    before = {p for p in tmp_path.rglob("*")}
    collect.collect(out)
    written = feedback.write(out)
    assert len({str(p).lower() for p in written}) == len(HOSTILE)  # also where ANN and ann are one name
    assert {p.parent for p in written} == {out / "feedback"} and all(len(p.name) < 100 for p in written)
    new = {p for p in tmp_path.rglob("*") if p.is_file()} - before
    assert all(p.is_relative_to(out) for p in new)
    for path in [out / "index.html", *written]:
        page = Page(path)
        assert not {"img", "b", "iframe", "object"} & set(page.tags)
        assert page.tags.count("script") == (path.name == "index.html")
        assert not any(name.startswith("on") for _, name, _ in page.attributes)
        assert "49" not in page.text and "\u202e" not in "".join(page.text)
        policy = next(v for t, k, v in page.attributes if (t, k) == ("meta", "content") and "default-src" in v)
        assert "default-src 'none'" in policy and "sha256-" in policy and "unsafe-eval" not in policy
    assert "<b>&amp;</b>" in " ".join(Page(out / "feedback" / "ann.html").text)
    with (out / "gradebook.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(c.startswith(("=", "+", "-", "@", "\t", "\r")) for c in cells)
    assert {"'=cmd|' /C calc'!A0", "Doe, Jr.", '"quoted"', "'-1+1", "'@SUM(A1)", "'\tTab"} <= set(cells)


def test_the_script_of_a_page_is_the_one_that_its_policy_allows(out):
    import base64
    import hashlib
    import re

    collect.collect(out)
    text = (out / "index.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in text or f"script-src 'sha256-{digest}'" in text


@pytest.mark.parametrize("id, name", [
    ("ada", "ada"), ("s0123_4", "s0123_4"), ("Ada", None), ("a-b", None), ("con", None), ("lpt1", None), ("", None),
    ("../x", None), ("a" * 65, None), (".", None), ("ü", None), ("a\nb", None), ("a.html", None),
])  # fmt: skip
def test_file_names_are_plain_and_keep_ids_apart(id, name):
    found = pages.file_name(id)
    assert found == name or (name is None and len(found) < 60 and found.isascii() and found != id)
    assert not set(found) - set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert pages.file_name(found) == found if name else pages.file_name(found) != found  # nobody can be called that


def test_pseudonyms_hide_who_it_is(out):
    collect.collect(out, anonymous=True)
    feedback.write(out, anonymous=True)
    name = pseudonyms.pseudonym(SECRET, "ada")
    assert set(book(out)) == {pseudonyms.pseudonym(SECRET, id) for id in ("ada", "bob", "cy", "dee", "eve", "fay")}
    shown = [*(out / "feedback").iterdir(), out / "index.html", out / "gradebook.csv", out / "summary.json"]
    for path in shown:
        assert not any(known in path.read_text() for known in ("ada", "Ada L.", "example.org", "bob"))
    assert f"ada,{name}" in (out / "pseudonyms.csv").read_text().splitlines()
    assert stat.S_IMODE((out / "pseudonyms.csv").stat().st_mode) == 0o600
    # Who marks by hand need not know either.
    (out / "manual.csv").write_text(f"id,exercise,points\n{name},lora-count,0.5\n")
    assert collect.read(out)[0].total == 5.5


def test_a_batch_that_cannot_be_read_is_said_in_one_line(tmp_path, out):
    for torn in ("", '{"index": 0'):
        if torn:
            (tmp_path / "manifest.jsonl").write_text(torn)
        with pytest.raises(CourseError, match="grade plan"):
            collect.collect(tmp_path)
    next((out / "results").iterdir()).write_text("{")
    with pytest.raises(CourseError, match="delete it and grade again"):
        collect.collect(out)


def test_collecting_twice_gives_the_same_files_and_adds_to_the_audit(out):
    names = ("gradebook.csv", "summary.json", "index.html")
    collect.collect(out)
    first = [(out / name).read_bytes() for name in names]
    lines = (out / "audit.jsonl").read_text()
    collect.collect(out)
    assert [(out / name).read_bytes() for name in names] == first
    after = (out / "audit.jsonl").read_text()
    assert after.startswith(lines) and len(after.splitlines()) == 2
    assert json.loads(after.splitlines()[-1])["did"] == "collected"


def test_a_gradebook_needs_no_pytorch(out):
    code = "import sys; from pathlib import Path; from coursekit.grading import collect\n"
    code += "collect.collect(Path(sys.argv[1])); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
