r"""The tables of the benchmarks: a run that is there is not made again, and one of another learning rate is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny
import tiny_text
import typer

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import forgetting  # noqa: E402
import in_context  # noqa: E402
from table import Table  # noqa: E402

from coursekit.forgetting import domains as module  # noqa: E402
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
    stored = forgetting.OUT.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    card = forgetting.card(Table(forgetting.OUT, forgetting.SETTINGS, forgetting.MEASURED).rows).splitlines()
    assert [line for line in card if line.startswith("| ")] == [s for s in stored if s.startswith("| ")], (
        "the card is older than the runs"
    )
    table = Table(in_context.OUT, in_context.SETTINGS, in_context.MEASURED)
    common = dict(seed=2, batch=in_context.BATCH, sentences=300, way="LoRA", lr=in_context.RATE)
    assert all(table.has(common | dict(examples=n, steps=steps)) for n, steps in in_context.STEPS.items())


def test_a_search_widens_until_the_best_rate_has_both_neighbours():
    asked = []

    def measure(rate: float, seed: int) -> float:
        asked.append((rate, seed))
        return {1e-3: 30.0, 3e-3: 22.0, 1e-2: 20.2, 3e-2: 20.0 + 0.6 * seed, 1e-1: 20.4}[rate]

    assert forgetting.search(measure, seeds=2) == 1e-2, "the mean over the seeds, not the first"
    assert {rate for rate, _ in asked} == {1e-3, 3e-3, 1e-2, 3e-2}
    assert {rate for rate, seed in asked if seed} == {1e-2, 3e-2}, "far behind with the first seed"
    assert forgetting.search(lambda rate, seed: rate, 1) == forgetting.LADDER[0]


def test_remedies_are_searched_run_and_put_on_a_card(tmp_path, monkeypatch):
    domains = module.load_domains()
    monkeypatch.setattr(forgetting, "load_domains", lambda: domains)
    small = module.small_decoder(512, d_model=32, layers=1, heads=2, device="cpu")
    monkeypatch.setattr(forgetting, "pretrained", lambda *how: (small, None))
    few = tuple(module.Remedy(kind, strength) for kind, strength in (("full", 3e-3), ("L2-SP", 0.03)))
    monkeypatch.setattr(forgetting, "REMEDIES", few)
    monkeypatch.setattr(forgetting, "SEARCHED", {"L2-SP": 0.01})
    out = tmp_path / "runs.csv"
    how = dict(seeds=1, pretraining=1, steps=1, batch=2, blocks=2, out=out)
    forgetting.main(**how)
    rows = Table(out, forgetting.SETTINGS, forgetting.MEASURED).rows
    assert rows[0]["remedy"] == "before" and {row["remedy"] for row in rows} == {"before", "full", "L2-SP"}
    tried = {float(row["validation"]): row["lr"] for row in rows if row["strength"] == "0.01"}
    assert rows[-1]["strength"] == "0.03" and rows[-1]["lr"] == tried[min(tried)]
    card = out.with_suffix(".md").read_text(encoding="utf-8")
    assert f"- **runs**: {len(rows)}, " in card and f"| L2-SP | 0.01 | {tried[min(tried)]} |" in card
    monkeypatch.setattr(forgetting.Remedy, "tune", None)
    forgetting.main(**how)  # nothing is run again


def asked_for(rates: dict[float, float], table: Table) -> list[tuple[str, int, float, int]]:
    r"""The runs that are made where validation sentences find `rates` (rate -> accuracy); `table` holds them then."""
    runs = []
    for run in in_context.wanted(table, 2, 100):
        if not table.has(run):
            right = int(100 * rates.get(run["lr"], 0.0)) if run["way"] == "LoRA-same-search" else 1
            table.add(run | dict(correct=right, tokens=1, seconds=1, processor="none"))
            runs.append((run["way"], run["examples"], run["lr"], run["seed"]))
    return runs


def test_the_rate_of_the_prompts_own_examples_is_searched_before_the_test_is_asked(tmp_path):
    table = Table(tmp_path / "runs.csv", in_context.SETTINGS, in_context.MEASURED)
    runs = asked_for({3e-4: 0.3, 1e-3: 0.4, 3e-3: 0.5, 1e-2: 0.2}, table)
    searched = [run for run in runs if run[0] == "LoRA-same-search"]
    assert searched == [(searched[0][0], 10, rate, s) for rate in (3e-4, 1e-3, 3e-3, 1e-2) for s in (0, 1)]
    assert runs[-2:] == [("LoRA-same", 10, 3e-3, 0), ("LoRA-same", 10, 3e-3, 1)]
    assert len(runs) == 5 + 2 * 3 + 8 + 2 and asked_for({}, table) == [], "nothing twice"
    # Stopped while a further rate was searched: its other seeds are not forgotten.
    table.rows = [row for row in table.rows if row["lr"] != "0.01" or row["seed"] == "0"]
    assert asked_for({1e-2: 0.2}, table) == [("LoRA-same-search", 10, 1e-2, 1)]


def test_examples_are_measured_and_the_card_written(tmp_path, monkeypatch):
    loaded = tiny.decoder("llama", max_position_embeddings=512), tiny_text.tokenizer()
    monkeypatch.setattr(in_context, "load_decoder", lambda name: loaded)
    monkeypatch.setattr(in_context, "STEPS", {10: 1})
    monkeypatch.setattr(in_context, "IN_PROMPT", (0, 10))
    out, trained = tmp_path / "runs.csv", []
    fit = in_context.fit
    monkeypatch.setattr(
        in_context, "fit", lambda model, few, **how: (trained.append(few), fit(model, few, **how))
    )
    in_context.main(seeds=1, sentences=4, out=out)
    table = Table(out, in_context.SETTINGS, in_context.MEASURED)
    whole = in_context.load_task("film", "five").for_decoder(loaded[1], max_length=64)
    own = in_context.prompt_examples(whole, 10).data["train"].to_list()
    first, *same = (few.data["train"].to_list() for few in trained)
    assert own != first and all(rows == own for rows in same) and len(same) == len(table.rows) - 3
    card = out.with_suffix(".md")
    assert f"- **runs**: {len(table.rows)}; the last {len(table.rows)} took" in card.read_text()
    card.unlink()
    in_context.main(seeds=1, sentences=4, out=out)
    assert not card.exists(), "nothing was made"
