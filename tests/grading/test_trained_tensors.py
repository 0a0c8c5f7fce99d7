r"""Exercises that train within a budget, and those with numbers of one's own: in real boxes, scored outside."""

import inspect
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import made_up
import pytest

from coursekit import checks
from coursekit.checks.lora_train import TRAIN
from coursekit.grading import batch as batches
from coursekit.grading import bench, pseudonyms
from coursekit.grading.folder import Batch
from coursekit.grading.one import Run
from coursekit.grading.plan import plan
from tests.checks.answers import SOLUTIONS

pytestmark = pytest.mark.slow

IDS = ("lora-merge", "lora-estimate", "lora-train")
HEADS = {**made_up.HEADS, "lora-merge": "def lora_merge(W, A, B, alpha):"}
BLANK = {id: f"{HEADS[id]}\n    return ..." for id in IDS}
RIGHT = {id: inspect.getsource(SOLUTIONS[id.replace("-", "_")]) for id in IDS}
HEAD = "import torch\nimport torch.nn.functional as F"
#: What is returned in the place of what was trained, from `found`, which the honest function returned.
CLAIMS = {
    "number": "1.0",
    "names": "{'score': 1.0, 'accuracy': 'all'}",
    "huge": "{**found, 'more': torch.zeros(4_000_000)}",
    "nan": "{name: tensor * float('nan') for name, tensor in found.items()}",
    "sparse": "{name: tensor.to_sparse() for name, tensor in found.items()}",
    "half": "{name: tensor / 10 for name, tensor in found.items()}",
}


def written(answers: dict[str, str], variant: int = 0) -> dict:
    cells = [made_up.cell(f"variant = {variant}", "p", tags=["parameters"]), made_up.cell(HEAD, "head")]
    return made_up.notebook([*cells, *(made_up.exercise(id, source) for id, source in answers.items())])


def claiming(value: str, steps: int = 1) -> str:
    source = RIGHT["lora-train"].replace("def lora_train", "def honest").replace("range(80)", f"range({steps})")
    call = "found = honest(load, names, ids, mask, targets, r, alpha)"
    return f"{source}\n{HEADS['lora-train']}\n    {call}\n    return {value}"


@pytest.fixture(scope="module")
def graded(box: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Batch]:
    place = tmp_path_factory.mktemp("training")
    (place / "course.ipynb").write_text(json.dumps(made_up.course(IDS)))
    folder = place / "submissions"
    folder.mkdir()
    batch = Batch(place / "marks")
    batch.make()
    ada = pseudonyms.variant(batch.secret(), "ada")
    by_hand = f"def lora_estimate():\n    return {estimate(ada)}"
    answers = {
        "ada": RIGHT,
        "bob": BLANK,
        "cy": {**RIGHT, "lora-train": BLANK["lora-train"], "lora-estimate": by_hand},
        **{name: {**BLANK, "lora-train": claiming(value)} for name, value in CLAIMS.items()},
        "writes": {**BLANK, "lora-train": f"{HEADS['lora-train']}\n    open('/models/x', 'w')"},
    }
    for name, answer in answers.items():
        (folder / f"{name}.ipynb").write_text(json.dumps(written(answer)))
    plan(folder, batch, "bwrap", notebook=place / "course.ipynb", variants=True)
    batches.grade_lines(batch)
    yield batch


def estimate(variant: int) -> int:
    own = checks.numbers("lora-estimate", variant)
    return own["layers"] * own["r"] * (3 * own["hidden"] + own["kv"])


def results(batch: Batch) -> dict[str, dict[str, dict]]:
    found = {line["submission"]: batch.result(line["key"]) for line in batch.lines()}
    return {name: {e["id"]: e for e in result["exercises"]} for name, result in found.items()}


def test_what_was_trained_is_scored_outside(graded: Batch):
    ada = results(graded)["ada"]
    assert {e["status"] for e in ada.values()} == {"ok"}, ada
    assert ada["lora-train"]["ran"] == "training" and ada["lora-train"]["measured"] > 0.5
    assert ada["lora-merge"]["ran"] == "questions" and ada["lora-merge"]["measured"] is None
    assert results(graded)["bob"]["lora-train"]["status"] == "not_attempted"


def test_a_number_that_is_reported_is_worth_nothing(graded: Batch):
    found = {name: results(graded)[name]["lora-train"] for name in CLAIMS}
    assert {name: e["status"] for name, e in found.items()} == {
        **dict.fromkeys(CLAIMS, "wrong"), "huge": "invalid_output", "sparse": "invalid_output",
    }  # fmt: skip
    assert not any(found[name]["points"] for name in CLAIMS if name != "half")
    assert found["half"]["points"] < 1
    assert "dictionary" in found["number"]["message"] and "NaN" in found["nan"]["message"]


def test_the_model_can_only_be_read(graded: Batch):
    e = results(graded)["writes"]["lora-train"]
    assert e["status"] == "error" and e["points"] == 0 and "OSError" in e["message"]


def test_everybody_has_numbers_of_his_own(graded: Batch):
    r"""ada works hers out; cy hands in ada's number."""
    found = results(graded)
    assert found["ada"]["lora-estimate"]["points"] == 1
    assert found["cy"]["lora-estimate"]["status"] == "wrong" and found["cy"]["lora-merge"]["status"] == "ok"


def test_a_training_ends_with_its_budget_and_takes_no_other_mark_along(graded: Batch, tmp_path: Path):
    endless = {**RIGHT, "lora-train": f"{HEADS['lora-train']}\n    while True: pass"}
    (tmp_path / "x.ipynb").write_text(json.dumps(written(endless)))
    here = bench.Bench(graded)
    try:
        assert here.assignment.budgets == {"lora-train": TRAIN.seconds}
        short = replace(here.assignment, budgets={"lora-train": 2.0})
        with here._slot() as slot:
            result = Run(tmp_path / "x.ipynb", short, slot, here.judge, 0).grade()
    finally:
        here.close()
    assert {e["id"]: e["status"] for e in result["exercises"]} == {
        "lora-merge": "ok", "lora-estimate": "ok", "lora-train": "timeout",
    }  # fmt: skip
    assert 2 < result["times"]["probe"] < 10
    assert result["where"] == "lora-train"
