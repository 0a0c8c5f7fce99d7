r"""Marks given by people: they count, the grader's stay beside them, and a slip of the pen is never passed over."""

import pytest

from coursekit.errors import CourseError
from coursekit.grading import collect
from tests.grading.batches import batch, part, right

WORK = {"ada": right(), "bob": [part("lora-truncate", 1), part("lora-linear", 0), part("lora-count", 1)]}


def marked(tmp_path, text):
    out = batch(tmp_path / "marks", WORK)
    (out / "manual.csv").write_text(text, encoding="utf-8")
    return {e.id: e for e in collect.collect(out)}, out


def test_a_mark_by_hand_counts_and_the_grader_s_own_stays(tmp_path):
    text = 'id,exercise,points,comment\nbob,lora-linear,2.5,"Right idea, one slip"\nada,lora-count,0,copied\n'
    entries, out = marked(tmp_path, text)
    assert (entries["bob"].points, entries["bob"].total) == (2, 4.5)
    assert (entries["ada"].points, entries["ada"].total) == (6, 5)
    forward = entries["bob"].parts[1]
    assert (forward.points, forward.given, forward.comment) == (0, 2.5, "Right idea, one slip")
    collect.collect(out)
    assert (out / "manual.csv").read_text() == text, "people's marks were written to"


def test_an_exercise_that_only_people_mark_is_everybody_s(tmp_path):
    entries, _ = marked(tmp_path, "id,exercise,points,comment,of\nbob,lora-essay,3,Nice,4\nbob,lora-count,0,,\n")
    assert (entries["bob"].of, entries["bob"].total) == (10, 4)
    assert (entries["ada"].of, entries["ada"].total) == (10, 6)
    assert [e.parts[-1].status for e in entries.values()] == ["to_be_marked", "manual"]


def test_without_a_file_nothing_changes(tmp_path):
    entries = collect.collect(batch(tmp_path, WORK))
    assert [e.total for e in entries] == [e.points for e in entries] == [6, 2]


@pytest.mark.parametrize("row, said", [
    ("zed,lora-count,1,", "zed, lora-count: there is no such submission"),
    ("bob,lora-cuont,1,", "bob, lora-cuont: there is no such exercise in it; give `of`"),
    ("bob,lora-count,-1,", "line 2: points must be a number of 0 or more, such as 2.5; got '-1'"),
    ("bob,lora-count,nan,", "points must be a number"), ("bob,lora-count,inf,", "points must be a number"),
    ("bob,lora-count,many,", "points must be a number"), ("bob,lora-count,1", "line 2: 4 cells are needed"),
    ("bob,lora-count,1,,5", "line 2: 4 cells are needed"), (",lora-count,1,", "needs an id and an exercise"),
    ("bob,lora-count,1.5,", "bob, lora-count: 1.5 points of 1; for a bonus give an exercise of its own"),
    ("bob,lora-count,1,\nbob,lora-count,0,", "line 3: bob lora-count is there twice"),
])  # fmt: skip
def test_a_slip_of_the_pen_is_said(tmp_path, row, said):
    with pytest.raises(CourseError) as error:
        marked(tmp_path, f"id,exercise,points,comment\n{row}\n")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_comma_will_do_and_columns_are_asked_for(tmp_path):
    entries, _ = marked(tmp_path, 'id,exercise,points\nbob,lora-linear,"1,5"\n')
    assert entries["bob"].total == 3.5
    with pytest.raises(CourseError, match="manual.csv needs a column points; it has id, exercise."):
        marked(tmp_path, "id,exercise\n")


def test_an_exercise_has_one_number_of_points_and_a_bonus_none(tmp_path):
    rows = "id,exercise,points,of\nbob,essay,3,4\nada,essay,4,{}\n"
    with pytest.raises(CourseError, match="line 3: essay is of 5 points here, and of 4 above"):
        marked(tmp_path, rows.format(5))
    entries, _ = marked(tmp_path, rows.format("") + "bob,bonus,2,0\n")
    assert [(e.total, e.of) for e in entries.values()] == [(10, 10), (7, 10)]


def test_a_mark_for_a_group_is_everybody_s_in_it(tmp_path):
    marked(tmp_path, "id,exercise,points\n")
    lines = (tmp_path / "marks" / "manifest.jsonl").read_text().replace('"person": {}', '"person": {}, "group": "g1"')
    (tmp_path / "marks" / "manifest.jsonl").write_text(lines)
    (tmp_path / "marks" / "manual.csv").write_text("id,exercise,points\ng1,lora-linear,2\n")
    assert [e.total for e in collect.collect(tmp_path / "marks")] == [5, 4]
    (tmp_path / "marks" / "manual.csv").write_text("id,exercise,points\ng1,lora-linear,2\nada,lora-linear,3\n")
    with pytest.raises(CourseError, match="line 3: ada lora-linear is there twice"):
        collect.collect(tmp_path / "marks")
