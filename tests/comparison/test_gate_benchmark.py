r"""What is said of LLaMA-Adapter's gate is what its file holds, and the first step is worked out on a model."""

from __future__ import annotations

import pytest
import tiny
from attached import labelled

from coursekit.comparison import gate
from coursekit.comparison.gate import GateRun

HEAD = "arm,seed,rate,steps,batch,words,bare,losses,correct,constant,largest_gate,seconds,processor\n"


def run(arm: str, seed: int, rate: float, late: float, right: int = 5, largest: float = 1.0) -> GateRun:
    r"""Training that begins at 3 (9 where the prompts are loud) and ends at `late`; `right` of 8 sentences."""
    losses = (9.0 if arm == "open" else 3.0, *[late] * 20)
    correct = tuple(i < right for i in range(8))
    return GateRun(arm, seed, rate, 3.0, losses, largest, correct, 0.5)


def search(arm: str, *late: float, right: int = 5) -> list[GateRun]:
    return [run(arm, 0, rate, loss, right) for rate, loss in zip((0.003, 0.01, 0.03), late, strict=False)]


def test_the_file_is_read_and_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "DATA", tmp_path)
    assert gate.read() == [] and gate.sentences([]) == [] and gate.rows([]) == [] and gate.curves([]) == {}
    (tmp_path / "evidence").mkdir()
    row = "gate,2,0.003,3,4,8,2.97,3.0 2.5,1101,0.5442,0.1361,695,a processor\n"
    (tmp_path / "evidence" / "gate.csv").write_text(HEAD + row)
    (found,) = gate.read()
    assert (found.arm, found.rate, found.accuracy, found.constant) == ("gate", 0.003, 0.75, 0.5442)
    assert found.correct == (True, True, False, True)


def test_learning_rates_are_searched_past_an_edge_before_other_seeds_run():
    assert gate.next_run([], arms=("gate",)) == ("gate", 0, 0.003)
    runs = search("gate", 1.0, 0.5)
    assert gate.next_run(runs, arms=("gate",)) == ("gate", 0, 0.03)
    runs = search("gate", 1.0, 0.5, 0.2)  # the best lies at the edge
    assert gate.next_run(runs, arms=("gate",)) == ("gate", 0, 0.1)
    runs = search("gate", 1.0, 0.5, 0.7)
    assert gate.next_run(runs, arms=("gate", "open")) == ("open", 0, 0.003)
    assert gate.next_run(runs, arms=("gate",)) == ("gate", 1, 0.01)
    runs += [run("gate", seed, 0.01, 0.5) for seed in (1, 2)]
    assert gate.next_run(runs, arms=("gate",)) is None and gate.next_run(runs, 4, ("gate",)) == (
        "gate",
        3,
        0.01,
    )


def test_a_training_that_failed_is_never_the_best_learning_rate():
    failed = GateRun("gate", 0, 0.03, 3.0, (), 1.0, (), 0.5)
    runs = [*search("gate", 4.0, 3.0), failed]
    assert gate.next_run(runs, arms=("gate",)) == ("gate", 1, 0.01)
    assert [one.rate for one in gate.shown(runs)["gate"]] == [0.01] and gate.shown([failed]) == {}


def test_arms_are_compared_only_at_searched_learning_rates():
    one_rate = [run(arm, seed, 0.01, 0.5) for arm in ("gate", "open") for seed in range(3)]
    said = gate.sentences(one_rate)
    assert "not compared" in said[0] and not any("minus" in sentence for sentence in said)
    assert gate.rows(one_rate)[0][1] == "0.01, the only one"
    runs = []
    for arm, right in (("gate", 8), ("open", 2)):
        runs += search(arm, 1.0, 0.5, 0.7, right=right) + [
            run(arm, seed, 0.01, 0.5, right) for seed in (1, 2)
        ]
    first, constant, opened = gate.sentences(runs)
    assert "minus no gate, each at its own best learning rate: +0.750" in first and first.startswith(
        "test accuracy, "
    )
    assert "0.500" in constant and opened == "largest gate after 21 steps: 1.000"
    rows = gate.rows(runs)
    assert rows[1] == ["no gate", "0.01 of 0.003, 0.01, 0.03", "+6.00", "0.50", "0.250, 0.250, 0.250"]
    assert {label: len(losses) for label, losses in gate.curves(runs).items()} == {row[0]: 3 for row in rows}


def test_before_any_step_the_gate_moves_and_the_prompts_do_not():
    model, batch = tiny.model("llama").eval(), labelled("llama")
    bare, gated, opened = gate.first_step(model, batch, n=3)
    assert bare[1] == gated[1] == pytest.approx(model(**batch).loss.item(), abs=1e-4) != opened[1]
    assert bare[2:] == ["–", "–"] and opened[2] == "–"
    assert float(gated[2]) > 0 == float(gated[3]) and float(opened[3]) > 0
