r"""The first steps of LLaMA-Adapter with and without its gate: what benchmarks/gate.py measured."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.methods import LlamaAdapter
from coursekit.paths import DATA


@dataclass(frozen=True)
class GateRun:
    r"""One run. gate: "raw", a gate that starts at 0, or "none". bare: loss of the frozen model on the first batch.

    losses: of every step. accuracy: on test sentences after the last. largest: the largest gate then.
    """

    gate: str
    seed: int
    bare: float
    losses: tuple[float, ...]
    accuracy: float
    largest: float

    def mean(self, first: int, last: int) -> float:
        r"""Mean loss of the steps `first` to `last`, from 1 on, both included."""
        return statistics.fmean(self.losses[first - 1 : last])


def read() -> list[GateRun]:
    r"""The runs of data/evidence/gate.csv; none where it was not made yet."""
    file = DATA / "evidence" / "gate.csv"
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as rows:
        return [
            GateRun(
                row["gate"], int(row["seed"]), float(row["bare"]), tuple(map(float, row["losses"].split())),
                float(row["accuracy"]), float(row["largest_gate"]),
            )
            for row in csv.DictReader(rows)
        ]  # fmt: skip


def paired(runs: list[GateRun]) -> list[tuple[GateRun, GateRun]]:
    r"""(with the gate, without it) for each seed that has both."""
    by = {(run.gate, run.seed): run for run in runs}
    seeds = sorted({run.seed for run in runs if {("raw", run.seed), ("none", run.seed)} <= set(by)})
    return [(by["raw", s], by["none", s]) for s in seeds]


def sentences(runs: list[GateRun]) -> list[str]:
    r"""What the pairs say; nothing without a pair."""
    pairs = paired(runs)
    if not pairs:
        return []
    start = max(abs(gated.losses[0] - gated.bare) for gated, _ in pairs)
    higher = [open_.losses[0] - gated.losses[0] for gated, open_ in pairs]
    steps = min(len(run.losses) for pair in pairs for run in pair)
    late = max(1, steps - 19)
    ahead = [open_.mean(late, steps) - gated.mean(late, steps) for gated, open_ in pairs]
    opened = [gated.largest for gated, _ in pairs]
    return [
        f"first step, {len(pairs)} seeds: with the gate at most {start:.4f} from the bare model's loss, "
        f"without it {min(higher):.1f} to {max(higher):.1f} above",
        f"mean loss of steps {late} to {steps}: without the gate {min(ahead):+.2f} to {max(ahead):+.2f} "
        "nats relative to with it",
        f"largest gate after {steps} steps: {min(opened):.3f} to {max(opened):.3f}",
    ]


def first_step(model: nn.Module, batch: Mapping[str, Tensor], n: int = 10) -> list[list[Any]]:
    r"""Rows of a table: the loss on `batch` (in nats) and the largest gradients of gates and prompts, before any step.

    For the bare model, with gates that start at 0, and with 1 in their place; the prompts are the same in both.
    """
    rows = []
    for name, kind in (("nothing attached", None), ("zero-initialised gate", "raw"), ("no gate", "none")):
        torch.manual_seed(0)
        method = LlamaAdapter(n=n, gate=kind) if kind else None
        trained = dict(method.attach(model).named_parameters()) if method else {}
        with torch.set_grad_enabled(method is not None):
            loss = model(**batch).loss
        row: list[Any] = [name, round(loss.item(), 4)]
        for part in (".gate", ".prompt"):
            own = [p for path, p in trained.items() if path.endswith(part)]
            found = torch.autograd.grad(loss, own, retain_graph=True) if own else ()
            row.append(f"{max(g.abs().max().item() for g in found):.3g}" if found else "–")
        if method:
            method.detach(model)
        rows.append(row)
    return rows
