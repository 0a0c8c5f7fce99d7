r"""The self-test finds what it is for: a blank copy with points, a solution without, a mistake without its message."""

import json
import os
from dataclasses import replace
from pathlib import Path

import made_up
import pytest

from coursekit import checks
from coursekit.authoring.solve import solve
from coursekit.errors import CourseError
from coursekit.grading import ids, work
from coursekit.grading.selftest import selftest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
def test_blank_gets_nothing_solved_gets_all_and_every_mistake_its_message(path):
    there = [checks.every_kind()[id] for id in ids.of_notebook(path)]
    cases = max(7, *(getattr(e, "kinds", 1) for e in there))  # with fewer a mistake may fit them by chance
    (found,) = selftest([path], secret := os.urandom(16), cases)
    assert (found.blank, found.solved, found.faults) == (0, found.of, []), secret
    assert found.of == sum(e.points for e in there) >= (3 if path.stem[2] == "_" else 1)  # a lesson, an appendix
    assert found.mistakes == sum(len(e.mutants) for e in there)
    of = f"{found.of:g}"
    assert str(found) == f"{path.stem}: blank 0 of {of}, solved {of} of {of}, {found.mistakes} mistakes named"


def courses(folder: Path, **asked: list[str]) -> list[Path]:
    r"""Notebooks with these exercises alone, in a checkout with the course's answers."""
    (folder / "notebooks").mkdir()
    (folder / "tests").symlink_to(ROOT / "tests")
    places = [folder / "notebooks" / f"{stem.removeprefix('_')}.ipynb" for stem in asked]
    for place, ids_ in zip(places, asked.values(), strict=True):
        place.write_text(json.dumps(made_up.course(ids_)))
    return places


@pytest.fixture
def lora(tmp_path: Path) -> list[Path]:
    return courses(tmp_path, _06_lora=["lora-merge", "lora-truncate"])


@pytest.mark.slow
def test_trainings_and_numbers_of_ones_own_are_tried_too(tmp_path, monkeypatch):
    places = courses(tmp_path, _06_lora=["lora-train"], _06b_intrinsic_dimension=["lora-estimate"])
    known = checks.every_kind()
    train = known["lora-train"]
    first, wrong = next(iter(train.mutants.items()))
    known["lora-train"] = replace(train, mutants=train.mutants | {"other words": wrong})
    monkeypatch.setattr(work, "every_kind", lambda: known)
    found, numbers = selftest(places, b"secret", 4)
    assert (found.blank, found.solved, found.of, found.mistakes) == (0, 4, 4, 4)
    assert (numbers.blank, numbers.solved, numbers.of, numbers.mistakes, numbers.faults) == (0, 1, 1, 7, [])
    assert found.faults == [f"lora-train: 'other words' is told {first!r}"]


@pytest.mark.parametrize("change, said", [
    (lambda e: replace(e, reference=lambda W, r: W.sum() * W, mutants={}),
     "lora-truncate: the answer gets 0 of 2 points"),
    (lambda e: replace(e, mutants={f"other words: {said}": wrong for said, wrong in e.mutants.items()}), None),
])  # fmt: skip
def test_what_is_wrong_is_said(lora, monkeypatch, change, said):
    known = checks.every_kind()
    known["lora-truncate"] = change(known["lora-truncate"])
    monkeypatch.setattr(work, "every_kind", lambda: known)
    (found,) = selftest(lora, b"secret", 4)
    assert found.faults == ([said] if said else [])
    assert (said is None) == (found.solved == found.of)


def test_a_mistake_that_is_told_something_else_and_a_blank_copy_with_points_are_said(lora, monkeypatch):
    known = checks.every_kind()
    truncate = known["lora-truncate"]
    # Cases that do not tell two mistakes apart, whatever an exercise refuses to draw.
    first, wrong = next(iter(truncate.mutants.items()))
    twice = replace(truncate, mutants=truncate.mutants | {"in other words": wrong})
    for drawn in ("cases", "public"):
        object.__setattr__(twice, drawn, getattr(truncate, drawn))
    known["lora-truncate"] = twice
    monkeypatch.setattr(work, "every_kind", lambda: known)
    monkeypatch.setattr("coursekit.grading.selftest.release", solve)  # which leaves the answers in
    (found,) = selftest(lora, b"secret", 4)
    blank = "the blank copy gets 2 of 2 points"
    told = f"lora-truncate: 'in other words' is told {first!r}"
    assert found.faults == [f"lora-merge: {blank}", f"lora-truncate: {blank}", told]


def test_a_notebook_without_exercises_is_refused(tmp_path):
    with pytest.raises(CourseError, match="there is no notebook"):
        list(selftest([tmp_path / "none.ipynb"], b"", 4))


def test_where_a_check_looks_at_a_class_the_grader_looks_at_it_itself():
    assert {id for id, exercise in checks.exercises().items() if exercise.part} == set(ids.LOOKS)
