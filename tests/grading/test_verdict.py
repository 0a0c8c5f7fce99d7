r"""From what left the box to points, key and status: no second answer, no time of one for all, no old mark."""

import json
import os
from dataclasses import replace
from pathlib import Path

import made_up
import pytest
import torch

from coursekit.checks import every_kind
from coursekit.checks.draw import Draw
from coursekit.checks.lora_train import LEARN, TRAIN
from coursekit.checks.training import PUBLIC, TrainingCase, TrainingScore
from coursekit.grading import cgroup, ids, plan, statuses, verdict
from coursekit.grading.batch import grade_lines
from coursekit.grading.inside.wire import encode
from coursekit.grading.limits import Limits
from coursekit.grading.one import Assignment, Run
from tests.grading.batches import batch, right

IDS = ("lora-truncate", "ia3-attention")
EXERCISES = {id: every_kind()[id] for id in IDS}
ASKED = {id: e.cases(b"secret", 2) for id, e in EXERCISES.items()}


def begin(id: str) -> dict:
    return {"event": "exercise", "id": id}


def answers(id: str, right: bool) -> list[dict]:
    told = [EXERCISES[id].answer(case) if right else 1.0 for case in ASKED[id]]
    return [{"event": "answer", "id": id, "case": n, "value": encode(v)} for n, v in enumerate(told)]


def marked(*lines: dict) -> dict[str, tuple[str, int]]:
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return {id: (e["status"], e["right"]) for id, e in verdict.probe_phase(content, EXERCISES, ASKED).items()}


def test_an_exercise_that_is_begun_again_keeps_what_it_said():
    one, other = IDS
    end = {"event": "ended", "id": one}
    honest = marked(begin(one), *answers(one, True), end, begin(other), *answers(other, True))
    assert honest == {one: ("ok", 2), other: ("ok", 2)}
    for between in ([], [begin(other), *answers(other, False)]):
        found = marked(begin(one), *answers(one, False), end, *between, begin(one), *answers(one, True), end)
        assert found[one][0] != "ok" and found[one][1] == 0, found
    assert marked(begin(one), begin(other), *answers(one, True))[one] == ("wrong", 0)  # said while another is asked


def test_every_exercise_has_its_time():
    limits = Limits(exercise=3).inside(6)
    assert limits["exercise"] == 3 and limits["probe"] >= 6 * 3


def test_some_right_and_some_empty_is_not_called_not_attempted():
    assert statuses.gravest(["ok", "not_attempted", "ok"]) == "wrong"
    assert statuses.gravest(["not_attempted"]) == statuses.gravest([]) == "not_attempted"
    points = {id: e.points for id, e in EXERCISES.items()}
    run = Run(Path("x"), Assignment("n", IDS, Limits(), "bwrap", 8, points=points), None, None)
    run._settle(IDS[0], "ok", "", right=8)
    run._settle(IDS[1], "not_attempted", "not attempted yet")
    found = run._result()
    assert (found["status"], found["message"], found["where"]) == (
        "wrong", "ia3-attention: not attempted yet", "ia3-attention"
    )  # fmt: skip


def test_a_key_changes_with_whatever_a_mark_depends_on(monkeypatch):
    common = {"limits": {"memory": 1}, "box": "bwrap", "ids": ["a"]}
    first = plan.fingerprint(common)
    assert first == plan.fingerprint(dict(common))
    assert first != plan.fingerprint({**common, "limits": {"memory": 2}})
    with monkeypatch.context() as patch:
        patch.setattr(ids, "fingerprint", lambda: "other checks")
        assert plan.fingerprint(common) != first
    version = plan.metadata.version
    for library in ("torch", "numpy", "ipython", "papermill"):
        with monkeypatch.context() as patch:
            patch.setattr(plan.metadata, "version", lambda n, l=library: "0" if n == l else version(n))
            assert plan.fingerprint(common) != first, library


def test_the_key_in_the_manifest_is_of_submission_and_rules(tmp_path, monkeypatch):
    (tmp_path / "subs").mkdir()
    (tmp_path / "course.ipynb").write_text(json.dumps(made_up.course(IDS)))
    for name in ("ann", "bob"):
        (tmp_path / "subs" / f"{name}.ipynb").write_text("{}")
    marks = plan.Batch(tmp_path / "marks")
    marks.make()

    def keys(**more: object) -> list[str]:
        given = {"notebook": tmp_path / "course.ipynb", **more}
        return [line["key"] for line in plan.plan(tmp_path / "subs", marks, "bwrap", **given)[0]]

    first = keys()
    assert len(set(first)) == 2 and first == keys()
    monkeypatch.setattr(plan.ids_of, "hints", lambda notebook: {"lora-merge": ["count the columns"]})
    assert first == keys() and marks.hints() == {"lora-merge": ["count the columns"]}, "graded anew for a hint"
    assert not set(first) & set(keys(limits=Limits(memory=2**30)))
    (tmp_path / "subs" / "ann.ipynb").write_text("{ }")
    assert [a == b for a, b in zip(first, keys(), strict=True)] == [False, True]


def test_ranks_of_secret_cases_go_beyond_four():
    r"""Else an answer that gives up on larger ones has full marks."""
    cases = [case for n in range(3) for case in every_kind()["lora-linear"].cases(bytes([n]), 8)]
    assert {len(case[2]) for case in cases} >= {2, 5, 7}


def test_what_a_killed_grader_left_is_taken_away(tmp_path):
    out = batch(tmp_path / "marks", {"ada": right()})
    parts = {pid: out / f".gradebook.csv.{pid}.0a1b2c3d.part" for pid in (os.getpid(), 2**30)}
    for pid, part in parts.items():
        part.touch()
        (tmp_path / f"coursekit-{pid}-0").mkdir()
    grade_lines(plan.Batch(out))
    assert {pid for pid, part in parts.items() if part.exists()} == {os.getpid()}
    cgroup._sweep(tmp_path)
    assert [p.name for p in tmp_path.glob("coursekit-*")] == [f"coursekit-{os.getpid()}-0"]


# Trainings -------------------------------------------------------------------------------------------------


def test_a_training_is_measured_on_what_was_never_seen():
    posing = TRAIN.posing(PUBLIC)
    torch.manual_seed(0)
    shapes = {"A": (8, 384), "B": (384, 8)}
    tensors = {f"{n}.{f}": torch.randn(shape) / 400 for n in posing.arguments[1] for f, shape in shapes.items()}
    measured = TRAIN.score(posing, tensors).measured
    load, names, ids_, mask, targets, *rest = posing.arguments
    other = (load, names, ids_.flip(0), mask, torch.zeros_like(targets), *rest)
    assert TRAIN.score(replace(posing, arguments=other), tensors).measured == measured
    kept = (posing.kept[0].flip(0), *posing.kept[1:])
    assert TRAIN.score(replace(posing, kept=kept), tensors).measured != measured
    seen = {tuple(row) for row in posing.arguments[2].tolist()}
    assert len(seen) == LEARN and not seen & {tuple(row) for row in posing.kept[0].tolist()}


def test_no_batch_s_secret_makes_a_training_too_hard():
    r"""How hard a draw is, is drawn: only what is taken counts here, so no model is trained."""
    training = replace(
        TRAIN,
        pose=lambda draw: TrainingCase((draw.whole(0, 9),), None),
        score=lambda posing, tensors: TrainingScore(1.0 if posing.arguments[0] < 4 else 0.9),
        fair=lambda hard: {"A": torch.zeros(1)},
    )
    secrets = [bytes([n]) for n in range(40)]
    hard = [training.posing(secret).arguments[0] for secret in secrets]
    assert max(hard) < 4 and len(set(hard)) > 1 and hard == [training.posing(secret).arguments[0] for secret in secrets]
    assert TRAIN.fair is not None
    never = replace(training, score=lambda posing, tensors: TrainingScore(0.5))
    with pytest.raises(Exception, match="lora-train: no draw of 200 is easy enough"):
        never.posing(b"x")
    assert never.posing(PUBLIC) == training.pose(Draw(PUBLIC, TRAIN.id))
