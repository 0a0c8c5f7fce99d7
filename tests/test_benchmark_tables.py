r"""The tables of the benchmarks: a run that is there is not made again, and one of another learning rate is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import forgetting  # noqa: E402
import in_context  # noqa: E402
from table import Table  # noqa: E402

from coursekit.forgetting.domains import REMEDIES  # noqa: E402


def test_a_run_is_made_once_and_a_torn_one_again(tmp_path):
    out = tmp_path / "runs.csv"
    table = Table(out, ("way", "lr", "seed"), ("correct", "note"))
    run = dict(way="a", lr=1e-3, seed=0)
    assert not table.has(run)
    table.add(run | dict(correct=3, note="one, and more"))
    assert out.read_text() == 'way,lr,seed,correct,note\na,0.001,0,3,"one, and more"\n'
    with out.open("a") as file:
        file.write("a,0.001,1,4")
    again = Table(out, ("way", "lr", "seed"), ("correct", "note"))
    assert again.rows == [dict(way="a", lr="0.001", seed="0", correct="3", note="one, and more")]
    assert again.has(run) and not again.has(run | {"seed": 1})
    assert not again.has(run | {"lr": 3e-3}), "another learning rate is another run"
    again.add(run | dict(seed=1, correct=4, note=""))
    assert len(Table(out, ("way", "lr", "seed"), ("correct", "note")).rows) == 2


def test_a_file_of_something_else_is_left_alone(tmp_path):
    notes = tmp_path / "notes.csv"
    notes.write_text("a,b\n1,2\n")
    with pytest.raises(typer.BadParameter, match="no table of this benchmark"):
        Table(notes, ("way",), ("correct",))
    assert notes.read_text() == "a,b\n1,2\n"


def test_the_committed_tables_hold_every_run_with_its_learning_rate():
    table = Table(forgetting.OUT, forgetting.SETTINGS, forgetting.MEASURED)
    common = dict(seed=2, pretraining=600, steps=100, batch=16, blocks=200)
    for r in REMEDIES:
        run = dict(remedy=r.kind, strength=float(r.strength), lr=r.rate) | common
        assert table.has(run) and not table.has(run | {"lr": 2 * r.rate}), r
    assert {(r.kind, r.rate) for r in REMEDIES if r.kind not in ("full",)} == {
        ("multi-task", 3e-3), ("replay", 3e-3), ("L2-SP", 3e-3), ("EWC", 3e-3), ("LoRA", 1e-2)
    }  # fmt: skip
    assert {r.rate for r in REMEDIES if r.kind == "full"} == {3e-4, 1e-3, 3e-3}
    table = Table(in_context.OUT, in_context.SETTINGS, in_context.MEASURED)
    common = dict(seed=2, batch=in_context.BATCH, sentences=300, way="LoRA", lr=in_context.RATE)
    assert all(table.has(common | dict(examples=n, steps=steps)) for n, steps in in_context.STEPS.items())
