r"""Each system gets its own columns, as its importer reads them; no mark is no number; and no cell is a formula."""

import csv
import io
import json
import re
import zipfile

import pytest
from typer.testing import CliRunner

from coursekit.errors import CourseError
from coursekit.grading import tables
from coursekit.grading.commands import app
from coursekit.grading.export import FORMATS, Options, export
from tests.grading.batches import HOSTILE, OF, batch, part, right

ADA = {"name": "Lovelace, Ada", "first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.org",
       "participant": "123", "section": "A"}  # fmt: skip


@pytest.fixture
def out(tmp_path):
    wrong = [part("lora-truncate", 2), part("lora-linear", 1.5, message="not alpha"), part("lora-count", 0)]
    return batch(tmp_path / "marks", {
        "ada": {"person": ADA},
        "bob": {"exercises": wrong, "person": {"email": "bob@example.org"}},
        "cy": {"status": "infrastructure", "exercises": [part(id, 0, "infrastructure") for id in OF]},
        "eve": None,
    })  # fmt: skip


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_canvas(out):
    assert rows(export(out, "canvas", Options(column="LoRA (4711)"))) == [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "LoRA (4711)"],
        ["Points Possible", "", "", "", "", "6"],
        ["Lovelace, Ada", "", "", "ada", "A", "6"],
        ["bob", "", "", "bob", "", "3.5"],
        ["cy", "", "", "cy", "", ""],
        ["eve", "", "", "eve", "", "0"],
    ]
    assert rows(export(out, "canvas"))[0][5] == "06_lora"
    with pytest.raises(CourseError, match="Canvas ignores columns with 'final'"):
        export(out, "canvas", Options(column="Finale (1)"))


def test_nbgrader(out):
    found = rows(export(out, "nbgrader"))
    assert found[0] == ["assignment", "duedate", "timestamp", "student_id", "last_name", "first_name", "email",
                        "raw_score", "late_submission_penalty", "score", "max_score"]  # fmt: skip
    person = ["ada", "Lovelace", "Ada", "ada@example.org"]
    assert found[1] == ["06_lora", "", "2026-05-01T10:00:00+00:00", *person, "6", "0", "6", "6"]
    assert found[3][7:] == ["", "", "", "6"]


def test_gradescope(out):
    folder = export(out, "gradescope")
    assert sorted(p.name for p in folder.iterdir()) == ["ada", "bob", "eve"]
    result = json.loads((folder / "bob" / "results.json").read_text())
    assert (result["score"], result["stdout_visibility"]) == (3.5, "hidden")
    assert result["tests"][1] == {"name": "lora-linear", "score": 1.5, "max_score": 3, "status": "failed",
                                  "output": "not alpha", "visibility": "visible"}  # fmt: skip
    assert result["tests"][0]["status"] == "passed" and result["tests"][0]["output"] == ""


@pytest.mark.parametrize("to, read", [
    ("csv", lambda path: next(r for r in rows(path) if r[0] == "bob")[4]), ("canvas", lambda path: rows(path)[3][5]),
    ("nbgrader", lambda path: rows(path)[2][9]),
    ("moodle", lambda path: rows(path)[1][4]),
    ("gradescope", lambda path: json.loads((path / "bob" / "results.json").read_text())["score"]),
])  # fmt: skip
def test_marks_that_people_gave_leave(out, tmp_path, to, read):
    (out / "manual.csv").write_text("id,exercise,points\nbob,lora-linear,2.75\n")
    assert float(read(export(out, to, Options(fill=sheet(tmp_path))))) == 4.75


MOODLE = """\
Identifier,Full name,Email address,Status,Grade,Maximum grade,Grade can be changed,Last modified (submission),\
Last modified (grade),Feedback comments
Participant 124,Bob,BOB@example.org,Submitted,,6.00,Yes,"Friday, 1 May 2026",-,
Participant 123,"Lovelace, Ada",a.l@example.org,Submitted,,6.00,Yes,-,"Monday, 4 May 2026, 12:00 PM",
Participant 125,=cmd,other@example.org,No submission,,6.00,Yes,-,-,
"""


def sheet(tmp_path, text=MOODLE, name="worksheet.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8-sig")
    return path


def test_moodle_s_own_worksheet_is_filled_and_else_unchanged(out, tmp_path):
    found = rows(export(out, "moodle", Options(fill=sheet(tmp_path))))
    before = list(csv.reader(MOODLE.splitlines()))
    assert found[0] == before[0]
    assert [r[0] for r in found] == [r[0] for r in before]
    bob, ada, other = found[1:]
    assert (bob[4], bob[9]) == ("3.5", "something is wrong") and (ada[4], ada[9]) == ("6", "everything is correct")
    assert (other[1], other[4], other[9]) == ("'=cmd", "", "")
    for i in (5, 6, 7, 8):  # the dates by which Moodle knows whether a mark is newer
        assert [r[i] for r in found] == [r[i] for r in before]


def test_moodle_s_feedback_files_are_named_as_its_import_reads_them(tmp_path):
    people = {"bob": "B_b/../Roe", "cy": "Cy Doe", "dee": "Dee"}
    work = {id: {"person": {"name": name, "email": f"{id}@example.org"}} for id, name in people.items()}
    work["eve"] = {"status": "infrastructure", "exercises": [part(id, 0, "infrastructure") for id in OF]}
    out = batch(tmp_path / "marks", work)
    text = MOODLE.splitlines()[0] + "\n"
    text += "".join(f"{who},x,{id}@example.org,,,6.00,Yes,-,-,\n" for who, id in (
        ("Participant 124", "bob"), ("Teilnehmer/in7", "cy"), ("none", "dee"), ("Participant 9", "eve")))  # fmt: skip
    export(out, "moodle", Options(fill=sheet(tmp_path, text), id_column="Email address"))
    with zipfile.ZipFile(out / "export" / "moodle-feedback.zip") as archive:
        found = {name: archive.read(name).decode() for name in archive.namelist()}
    for name in found:  # as importziplib.php parts it: full name, number, type and name of the plugin
        assert re.fullmatch(r"[^_/]+_\d+_assignsubmission_file_/feedback\.html", name)
    assert {name.split("_")[1] for name in found} == {"124", "7"}
    assert all("6 of 6 points" in page for page in found.values()) and "Cy Doe" in "".join(found.values())


def test_moodle_keeps_its_grade_where_there_is_no_mark_and_a_shared_address_is_nobody_s(tmp_path):
    person = {"email": "both@example.org"}
    failed = {"status": "infrastructure", "exercises": [part(id, 0, "infrastructure") for id in OF]}
    out = batch(tmp_path / "marks", {"cy": failed, "dee": {"person": person}, "eve": {"person": person}})
    text = MOODLE.splitlines()[0] + "\n"
    text += "".join(f"Participant {n},{who},{mail},,4.00,6.00,Yes,-,-,\n" for n, who, mail in (
        (1, "cy", ""), (2, "dee", "both@example.org"), (3, "eve", "both@example.org")))  # fmt: skip
    found = rows(export(out, "moodle", Options(fill=sheet(tmp_path, text))))
    assert [row[4] for row in found[1:]] == ["4.00", "6", "6"]


def test_moodle_in_another_language(out, tmp_path):
    text = "ID,Nom,Adresse de courriel,Note,Note maximale\n"
    text += "Participant 1,B,bob@example.org,,10\nParticipant 123,A,x,,10\n"
    path = sheet(tmp_path, text)
    with pytest.raises(CourseError, match="no column 'Grade': give --grade-column, one of ID, Nom, Adresse"):
        export(out, "moodle", Options(fill=path))
    named = {"fill": path, "grade_column": "Note", "maximum_column": "Note maximale"}
    with pytest.raises(CourseError, match="Moodle's maximum is 10, there are 6 points: give --scale"):
        export(out, "moodle", Options(**named))
    found = rows(export(out, "moodle", Options(**named, scale=True)))
    assert [r[3] for r in found[1:]] == ["5.83", "10"]


@pytest.mark.parametrize("text, said", [
    (MOODLE.replace("BOB@example.org", "x@example.org").replace("Bob", "B."), "has no line for bob"),
    (MOODLE + "Participant 9,Ada,ada@example.org,,,6.00,Yes,-,-,\n", "line 5: ada appears twice"),
    (MOODLE.replace("a.l@example.org", "bob@example.org"), "line 3: it is ada and bob; give --id-column"),
    (MOODLE.splitlines()[0] + "\n", "lists nobody from this batch"),
    (MOODLE.replace("6.00", "six"), "line 2, the maximum grade: points must be a number"),
])  # fmt: skip
def test_a_worksheet_that_does_not_fit_is_refused(out, tmp_path, text, said):
    with pytest.raises(CourseError) as error:
        export(out, "moodle", Options(fill=sheet(tmp_path, text)))
    assert said in str(error.value) and not (out / "export" / "moodle.csv").exists()


def test_moodle_without_a_worksheet_and_unknown_systems_are_refused(out):
    with pytest.raises(CourseError, match="give it with --fill"):
        export(out, "moodle")
    with pytest.raises(CourseError, match="unknown format 'canvass'; did you mean 'canvas'?"):
        export(out, "canvass")


@pytest.mark.parametrize("to", sorted(set(FORMATS) - {"moodle", "gradescope"}))
def test_no_cell_is_a_formula_and_no_name_shifts_a_column(tmp_path, to):
    out = batch(tmp_path / "marks", {id: {"exercises": right(), "person": {"name": id}} for id in HOSTILE})
    found = rows(export(out, to))
    assert len(found) == len(HOSTILE) + (2 if to == "canvas" else 1) and len({len(r) for r in found}) == 1
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in found for cell in row)


def test_no_reader_of_csv_sees_a_formula_or_another_line(tmp_path):
    r"""Also one that parts cells at semicolons, as in half of Europe, and one that ends lines at CR."""
    rows = [["x\r=1+1", "a;=1+1;b", "a\u202eb\x1b[2J", "-", "a;-b", 1.5, None, "plain"], ["x", "y"]]
    tables.write(tmp_path / "x.csv", rows)
    text = (tmp_path / "x.csv").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 2 and not {"\r", "\u202e", "\x1b"} & set(text)
    for delimiter in ",;":
        for row in csv.reader(io.StringIO(text), delimiter=delimiter):
            assert not any(cell.lstrip('"').startswith(("=", "+", "@")) for cell in row)
    assert next(csv.reader(io.StringIO(text)))[3:] == ["-", "a;'-b", "1.5", "", "plain"]
    assert text.splitlines()[0].count('"') == 16 and text.splitlines()[1] == "x,y"


def test_hostile_names_stay_inside_the_folder(tmp_path):
    out = batch(tmp_path / "marks", {id: right() for id in HOSTILE})
    folder = export(out, "gradescope")
    assert len({p.name.lower() for p in folder.iterdir()}) == len(HOSTILE)
    assert all(p.is_relative_to(out) for p in tmp_path.rglob("*") if p.is_file())


# The commands ----------------------------------------------------------------------------------------------


def test_the_commands(out):
    def run(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    done = run("collect", "--out", out)
    assert done.exit_code == 0 and "4 submissions, 1 without a mark" in done.output
    done = run("export", out, "--to", "csv")
    assert done.exit_code == 0 and "marks.csv" in done.output
    done = run("feedback", out)
    assert done.exit_code == 0 and done.output.startswith("4 pages in")
    done = run("variants", out)
    assert done.output.splitlines()[0] == "id,variant" and len(done.output.splitlines()) == 5
    for arguments in (["export", out, "--to", "paper"], ["collect", "--out", out / "none"],
                      ["answers", out, "--template", out / "none.ipynb"]):  # fmt: skip
        done = run(*arguments)
        assert done.exit_code == 1 and done.output.startswith("coursekit: ") and done.output.count("\n") == 1
