r"""The files in data/evidence/ say what the code does today: one run of each is begun anew, and each is whole."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import tiny
import torch

from coursekit.comparison.bench import Bench
from coursekit.comparison.evidence.card import card
from coursekit.comparison.evidence.cell import train
from coursekit.comparison.evidence.grid import derived
from coursekit.comparison.evidence.results import CONSTANT, UNTRAINED, read
from coursekit.comparison.evidence.store import written
from coursekit.methods import LoRA
from coursekit.models import is_encoder
from coursekit.paths import DATA

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TOPICS = sorted(
    path.stem
    for path in (BENCHMARKS / "topics").glob("[!_]*.py")
    if (DATA / "evidence" / f"{path.stem}.csv").exists()
)


@pytest.fixture
def topic(request, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module(f"topics.{request.param}")
    for name in [name for name in sys.modules if name.split(".")[0] == "topics"]:
        del sys.modules[name]


def test_there_is_evidence():
    assert TOPICS


@pytest.mark.parametrize("topic", TOPICS, indirect=True)
def test_a_file_is_of_its_grid_and_has_its_card(topic):
    grid = topic.GRID
    file, evidence = DATA / "evidence" / f"{grid.topic}.csv", read(grid.topic)
    assert file.read_text(encoding="utf-8") == written(evidence.runs), "as the program writes it"
    names = {arm.name for arm in grid.arms} | {CONSTANT}
    names |= set() if is_encoder(topic.SETTING.model) else {UNTRAINED}
    names |= {derived(arm.name, state) for arm in grid.arms for state in arm.make.also}
    assert {run.cell.arm for run in evidence.runs} <= names
    assert evidence.accuracy(CONSTANT).value < 0.6
    stored = file.with_suffix(".md").read_text(encoding="utf-8")
    table = [line for line in card(grid, evidence.runs, {}, 0.0).splitlines() if line.startswith("| ")]
    assert table == [line for line in stored.splitlines() if line.startswith("| ")], (
        "the card is older than the runs"
    )


@pytest.mark.slow
@pytest.mark.parametrize("topic", TOPICS, indirect=True)
def test_a_run_begun_anew_goes_as_the_stored_one_did(topic):
    grid, bench = topic.GRID, Bench(topic.SETTING)
    arms = {arm.name for arm in grid.arms}
    runs = [run for run in read(grid.topic).runs if run.curve and run.cell.steps and run.cell.arm in arms]
    run = min(runs, key=lambda run: (run.curve[0][0], run.seconds / run.cell.steps))
    first, stored = run.curve[0]
    (again,) = train(bench, grid.arm(run.cell.arm).make, run.cell, grid.every(run.cell.steps), until=first)
    # The same to the last sentence on the same machine; elsewhere products are rounded in another order.
    assert again.curve == ((first, pytest.approx(stored, abs=0.03)),)


@pytest.mark.parametrize("topic", ["pooling"], indirect=True)
def test_a_head_on_the_mean_reads_every_token_of_the_text_and_no_padding(topic):
    model = topic.reading_the_mean(LoRA(r=2), tiny.encoder("bert"), None, 0)
    texts = [[2, 5, 7, 9, 3], [2, 8, 3]]
    batch = {
        "input_ids": torch.tensor([texts[0], [*texts[1], 0, 0]]),
        "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0]]),
    }
    logits = model(**batch).logits
    for row, ids in zip(logits, texts, strict=True):
        alone = torch.tensor([ids])
        states = model.bert(alone).last_hidden_state[0]
        torch.testing.assert_close(row, model.classifier(states.mean(0)))
        torch.testing.assert_close(row, model(input_ids=alone).logits[0])
    model.requires_grad_(True)
    model(**batch).logits.sum().backward()
    assert model.bert.pooler.dense.weight.grad is None and model.classifier.weight.grad.any()
