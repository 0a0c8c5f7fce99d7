r"""Whose a submission is: an id matches whole or not at all, what is nobody's is said, no work is lost."""

import json
import os
import unicodedata
import zipfile
from pathlib import Path

import pytest

from coursekit.errors import CourseError
from coursekit.grading import gate
from coursekit.grading.submissions import Found, digest, find


def listed(folder: Path, ids: str | None, *names: str, groups: str | None = None) -> Found:
    r"""Empty submissions of these `names` (a slash at the end: a folder), each newer than the one before."""
    (subs := folder / "subs").mkdir()
    for when, name in enumerate(names, start=1):
        path = subs / name
        path.mkdir() if name.endswith("/") else path.touch()
        if name.endswith("/"):
            (path / "06_lora.ipynb").touch()
        os.utime(path, (when, when))
    given = []
    for name, head, text in (("roster", "id", ids), ("groups", "group,id", groups)):
        given.append(None if text is None else folder / f"{name}.csv")
        if text is not None:
            given[-1].write_text("\n".join([head, *text.split()]) + "\n", encoding="utf-8")
    return find(subs, *given)


def names(found: Found) -> dict[str, str | None]:
    return {one.id: one.path and one.path.name for one in found.submissions}


@pytest.mark.parametrize("ids, name, whose", [
    ("ann ann_b", "ann_b_3_4_06_lora.ipynb", "ann_b"), ("ann ann_b", "ann_b_06_lora.ipynb", "ann_b"),
    ("ann ann_b", "06_lora_ann_b.ipynb", "ann_b"), ("ann ann_b", "ann_06_lora.ipynb", "ann"),
    ("1001 roe", "roejim_3003_1001_06_lora.ipynb", None), ("4711 99", "doejane_4711_99_06_lora.ipynb", "4711"),
    ("4711", "doejane_LATE_4711_99_06_lora.ipynb", "4711"), ("ann", "ann_c_3_4_06_lora.ipynb", None),
    ("4712 Jane", "Jane Roe_4712_assignsubmission_file_/", "4712"),
    ("7", "Jane Roe_4712_assignsubmission_file_7.ipynb", None),
    ("ann bob", "ann_bob.ipynb", None), ("ann bob", "06_ann_and_bob_x.ipynb", None), ("ann", "hannah.ipynb", None),
    ("ANN ann", "ANN.ipynb", "ANN"), ("ANN ann", "Ann.ipynb", None), ("Ann", "aNN_06.ipynb", "Ann"),
    ("J\u00f6rg", unicodedata.normalize("NFD", "j\u00f6rg_06.ipynb"), "J\u00f6rg"), (".ann", ".ann.ipynb", ".ann"),
])  # fmt: skip
def test_an_id_matches_whole_or_not_at_all(tmp_path, ids, name, whose):
    found = listed(tmp_path, ids, name)
    (one,) = [s for s in found.submissions if s.path]
    if whose is None:
        assert one.id not in ids.split() and one.unmatched and not one.person
        assert any("nobody's on the roster" in line and one.id in line for line in found.said)
    else:
        assert (one.id, one.unmatched, one.person["id"], found.said) == (whose, "", whose, [])
    assert {s.id for s in found.submissions} == {one.id, *ids.split()}  # nobody is forgotten, nobody there twice


def test_two_ids_in_a_name_are_said(tmp_path):
    (line,) = listed(tmp_path, "ann bob", "ann_bob.ipynb").said
    assert line == "ann_bob: nobody's on the roster (it names ann and bob): rename it to the id"


def test_nobody_s_exact_file_gives_way_to_one_that_names_him_in_part(tmp_path):
    found = listed(tmp_path, "ann", "ann.ipynb", "ann_c_06_lora.ipynb")  # perhaps somebody's who is not on the roster
    assert names(found) == {"ann": "ann.ipynb", "ann_c_06_lora": "ann_c_06_lora.ipynb"}
    assert any("ann_c_06_lora" in line for line in found.said)


@pytest.mark.parametrize("again", ["ann_06_lora.ipynb", "06_LORA_Ann.ipynb"])
def test_who_hands_in_again_under_the_notebook_s_name_too_is_no_stranger(tmp_path, again):
    listed(tmp_path, "ann", "ann.ipynb", again, "ann_c_06_lora.ipynb")
    given = tmp_path / "subs", tmp_path / "roster.csv"
    found = find(*given, notebooks=["06_lora"])
    assert names(found) == {"ann": again, "ann_c_06_lora": "ann_c_06_lora.ipynb"}
    assert f"ann: {again} counts, the newest; not ann.ipynb" in found.said
    os.utime(tmp_path / "subs" / "ann.ipynb", (9, 9))
    assert names(find(*given, notebooks=["06_lora"]))["ann"] == "ann.ipynb"
    assert len([one for one in find(*given, every=True, notebooks=["06_lora"]).submissions if one.id == "ann"]) == 2


def test_the_newest_counts_that_holds_a_notebook_and_it_is_said(tmp_path):
    found = listed(tmp_path, "4711", "x_4711_1_06_lora.ipynb", "x_4711_2_06_lora-1.ipynb")
    assert names(found) == {"4711": "x_4711_2_06_lora-1.ipynb"}
    assert found.said == ["4711: x_4711_2_06_lora-1.ipynb counts, the newest; not x_4711_1_06_lora.ipynb"]
    text = tmp_path / "subs" / "X Y_4711_assignsubmission_onlinetext_"
    text.mkdir()
    (text / "onlinetext.html").touch()
    assert names(find(tmp_path / "subs", tmp_path / "roster.csv")) == {"4711": "x_4711_2_06_lora-1.ipynb"}


def test_what_a_computer_left_is_nobody_s_and_what_is_passed_over_is_said(tmp_path):
    found = listed(tmp_path, None, "ann.ipynb", "__MACOSX/", "._ann.ipynb", ".DS_Store", "notes.txt", ".cy.ipynb")
    assert names(found) == {"ann": "ann.ipynb"}
    assert [line.split(":")[0] for line in found.said] == [".cy.ipynb", "notes.txt"]


def test_what_goes_while_it_is_looked_at_is_said_and_takes_nobody_along(tmp_path, monkeypatch):
    def gone(path: Path, lstat=Path.lstat) -> os.stat_result:
        if path.name == "bob.ipynb":
            raise FileNotFoundError(2, "No such file or directory")
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", gone)
    found = listed(tmp_path, "ann bob", "ann.ipynb", "bob.ipynb")
    assert names(found) == {"ann": "ann.ipynb", "bob": None}
    assert found.said == ["bob: bob.ipynb was passed over: No such file or directory"]


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "06_lora.ipynb").write_text("{}")

    def refuses(path: object, scandir=os.scandir) -> object:
        if Path(path).name == "work":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuses)
    with pytest.raises(PermissionError):
        gate.files(tmp_path)


def test_a_group_hands_in_once_under_its_own_name_or_a_member_s(tmp_path):
    found = listed(tmp_path, "ann bob cy dee", "g1.ipynb", "cy_06.ipynb", groups="g1,ann g1,bob g2,cy g2,dee")
    assert names(found) == {"ann": "g1.ipynb", "bob": "g1.ipynb", "cy": "cy_06.ipynb", "dee": "cy_06.ipynb"}
    assert {s.id: s.group for s in found.submissions} == {"ann": "g1", "bob": "g1", "cy": "g2", "dee": "g2"}
    for text, said in (("g1,ann g2,ann", "ann is there twice"), ("g1,zed", "zed: not on the roster"),
                       ("ann,bob", "ann is the name of a group and somebody's id")):  # fmt: skip
        (tmp_path / "groups.csv").write_text("\n".join(["group,id", *text.split(), "ann,ann" * (text == "ann,bob")]))
        with pytest.raises(CourseError, match=said):
            find(tmp_path / "subs", tmp_path / "roster.csv", tmp_path / "groups.csv")


def test_a_roster_without_an_id_or_with_one_twice_is_refused(tmp_path):
    for rows, said in (("1,x\n1,y\n", "the id '1' twice"), (",x\n", "a line without an id")):
        (tmp_path / "roster.csv").write_text(f"id,name\n{rows}")
        with pytest.raises(CourseError, match=said):
            find(tmp_path, tmp_path / "roster.csv")


# What of it is the notebook --------------------------------------------------------------------------------


def zipped(path: Path, **files: str) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(name.replace("__", "/"), content)


def test_a_zip_in_a_folder_is_what_moodle_hands_over(tmp_path):
    zipped(tmp_path / "homework.zip", **{"work/06_lora.ipynb": "{}", "work/helper.py": "x"})
    assert set(gate.files(tmp_path)) == {"work/06_lora.ipynb", "work/helper.py"}
    (tmp_path / "06_lora.ipynb").write_text("{}")  # then the zip is only a file of it
    assert set(gate.files(tmp_path)) == {"06_lora.ipynb", "homework.zip"}
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as file:
        file.writestr("../x", "")
    (tmp_path / "06_lora.ipynb").unlink()
    (tmp_path / "homework.zip").unlink()
    with pytest.raises(gate.Refused, match="leads outside"):
        gate.files(tmp_path)


@pytest.mark.parametrize("there, which", [
    (["06_lora-Copy1.ipynb", "06_lora.ipynb"], "06_lora.ipynb"),
    (["a/06_lora.ipynb", "06_lora.ipynb"], "06_lora.ipynb"),
    (["x.ipynb"], "x.ipynb"), (["x.ipynb", "my_06_lora_v2.ipynb"], "my_06_lora_v2.ipynb"),
    (["06_LoRA.IPYNB"], "06_LoRA.IPYNB"),
    (["a/06_lora.ipynb", "b/06_lora.ipynb"], None), (["x.ipynb", "y.ipynb"], None), (["x.txt"], None),
    (["06_lora-Copy1.ipynb", "06_lora-Copy2.ipynb"], None),
])  # fmt: skip
def test_the_notebook_is_the_one_that_is_called_so(there, which):
    if which is None:
        with pytest.raises(gate.Refused):
            gate.the_notebook(there, "06_lora")
    else:
        assert gate.the_notebook(there, "06_lora") == which


def test_a_submission_is_hashed_no_further_than_it_may_be_large(tmp_path):
    with (tmp_path / "ann.ipynb").open("wb") as file:
        file.truncate(2**40)
    first = digest(tmp_path / "ann.ipynb")  # a second a gigabyte, were it read
    os.utime(tmp_path / "ann.ipynb", (1, 1))
    assert digest(tmp_path / "ann.ipynb") != first
    (tmp_path / "bob.ipynb").write_text(json.dumps({"cells": []}))
    first = digest(tmp_path / "bob.ipynb")
    os.utime(tmp_path / "bob.ipynb", (1, 1))
    assert digest(tmp_path / "bob.ipynb") == first
