r"""What is said of LLaMA-Adapter's gate is what its file holds, and the first step is worked out on a model."""

from __future__ import annotations

import pytest
import tiny
from attached import labelled

from coursekit.comparison import gate
from coursekit.comparison.gate import GateRun

HEAD = "gate,seed,steps,batch,rate,words,bare,losses,accuracy,sentences,largest_gate,seconds,processor\n"


def run(kind: str, seed: int, losses: tuple[float, ...], largest: float = 1.0) -> GateRun:
    return GateRun(kind, seed, 3.0, losses, 0.8, largest)


RUNS = [
    run("raw", 0, (3.0, 2.0, 1.0), 0.1),
    run("none", 0, (9.0, 5.0, 2.0)),
    run("raw", 1, (3.01, 2.0, 1.5), 0.2),
    run("none", 1, (12.01, 5.0, 1.0)),
    run("raw", 2, (3.0, 2.0, 1.0)),  # its partner has not run yet
]


def test_the_file_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "DATA", tmp_path)
    assert gate.read() == [] and gate.sentences([]) == []
    (tmp_path / "evidence").mkdir()
    file = tmp_path / "evidence" / "gate.csv"
    file.write_text(HEAD + "raw,2,3,4,0.01,6,2.97,3.0 2.5 2.0,0.95,40,0.1361,695,a processor\n")
    assert gate.read() == [GateRun("raw", 2, 2.97, (3.0, 2.5, 2.0), 0.95, 0.1361)]


def test_only_seeds_with_both_are_compared():
    assert [one.seed for one, _ in gate.paired(RUNS)] == [0, 1]
    first, late, opened = gate.sentences(RUNS)
    assert (
        first
        == "first step, 2 seeds: with the gate at most 0.0100 from the bare model's loss, without it 6.0 to 9.0 above"
    )
    assert late.startswith("mean loss of steps 1 to 3: without the gate +3.33 to +3.83 nats")
    assert opened == "largest gate after 3 steps: 0.100 to 0.200"
    assert gate.sentences(RUNS[-1:]) == []


def test_before_any_step_the_gate_moves_and_the_prompts_do_not():
    model, batch = tiny.model("llama").eval(), labelled("llama")
    bare, gated, opened = gate.first_step(model, batch, n=3)
    assert bare[1] == gated[1] == pytest.approx(model(**batch).loss.item(), abs=1e-4) != opened[1]
    assert bare[2:] == ["–", "–"] and opened[2] == "–"
    assert float(gated[2]) > 0 == float(gated[3]) and float(opened[3]) > 0
