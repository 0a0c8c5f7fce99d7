r"""The first steps of LLaMA-Adapter with and without its gate: what benchmarks/gate.py measured."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.comparison.evidence import intervals, tables
from coursekit.comparison.rates import around, best, beyond
from coursekit.methods import LlamaAdapter
from coursekit.paths import DATA


@dataclass(frozen=True)
class Arm:
    r"""label: for legends and tables. std: standard deviation of the prompts at the start."""

    label: str
    std: float


ARMS = {
    "gate": Arm("zero-initialised gate", 1.0),
    "open": Arm("no gate", 1.0),
    "open-small": Arm("no gate, prompts of 0.02 N(0, 1)", 0.02),
}
#: The search of a learning rate begins with this one and its two neighbours.
START = 1e-2


@dataclass(frozen=True)
class GateRun:
    r"""One run. arm: of ARMS. rate: the learning rate. bare: loss of the frozen model on the first batch, in nats.

    losses: of every step; none where training failed. largest: the largest gate after the last. correct: which test
    sentences were right then. constant: the constant answer's share.
    """

    arm: str
    seed: int
    rate: float
    bare: float
    losses: tuple[float, ...]
    largest: float
    correct: tuple[bool, ...]
    constant: float

    @property
    def accuracy(self) -> float:
        r"""On test sentences; 0 where training failed."""
        return sum(self.correct) / len(self.correct) if self.correct else 0.0

    @property
    def late(self) -> float:
        r"""Mean loss of the last twenty steps; infinite where training failed."""
        return statistics.fmean(self.losses[-20:]) if self.losses else math.inf


def parse(row: Mapping[str, str]) -> GateRun:
    r"""A line of benchmarks/gate.py."""
    losses = tuple(map(float, row["losses"].split()))
    correct = tuple(one == "1" for one in row["correct"])
    rate, bare, largest, constant = (float(row[key]) for key in ("rate", "bare", "largest_gate", "constant"))
    return GateRun(row["arm"], int(row["seed"]), rate, bare, losses, largest, correct, constant)


def read() -> list[GateRun]:
    r"""The runs of data/evidence/gate.csv; none where it is not there."""
    file = DATA / "evidence" / "gate.csv"
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as rows:
        return [parse(row) for row in csv.DictReader(rows)]


def _tried(runs: Sequence[GateRun], arm: str) -> dict[float, float | None]:
    r"""Learning rate -> exp of minus the late loss with the first seed, which is largest for the best rate."""
    found = {run.rate: run for run in runs if (run.arm, run.seed) == (arm, 0)}
    return {rate: math.exp(-run.late) if run.losses else None for rate, run in found.items()}


def next_run(
    runs: Sequence[GateRun], seeds: int = 3, arms: Sequence[str] = tuple(ARMS)
) -> tuple[str, int, float] | None:
    r"""(arm, seed, learning rate) of the next run: searches first, then the other seeds. None: all are there."""
    chosen: dict[str, float] = {}
    for arm in arms:
        tried = _tried(runs, arm)
        for rate in around(START):
            if rate not in tried:
                return arm, 0, rate
        further = beyond(tried)
        if further is not None:
            return arm, 0, further
        chosen[arm] = best(tried)
    have = {(run.arm, run.seed, run.rate) for run in runs}
    missing = (
        (arm, seed, chosen[arm])
        for seed in range(seeds)
        for arm in arms
        if (arm, seed, chosen[arm]) not in have
    )
    return next(missing, None)


def shown(runs: Sequence[GateRun]) -> dict[str, list[GateRun]]:
    r"""Arm -> its runs at the best learning rate tried so far, by seed; arms without a run that came to its end are not
    in it.
    """
    found = {}
    for arm in ARMS:
        tried = _tried(runs, arm)
        if any(tried.values()):
            own = [run for run in runs if (run.arm, run.rate) == (arm, best(tried)) and run.losses]
            found[arm] = sorted(own, key=lambda run: run.seed)
    return found


def curves(runs: Sequence[GateRun]) -> dict[str, list[tuple[float, ...]]]:
    r"""Label of an arm -> the losses of every seed, at the arm's best learning rate so far."""
    return {ARMS[arm].label: [run.losses for run in own] for arm, own in shown(runs).items()}


def rows(runs: Sequence[GateRun]) -> list[list[Any]]:
    r"""Rows of a table: arm, learning rate of those tried, first loss minus the bare model's, late loss, accuracies."""
    return [
        [
            ARMS[arm].label,
            _rates(own[0].rate, sorted(_tried(runs, arm))),
            _range([run.losses[0] - run.bare for run in own], "+.2f"),
            _range([run.late for run in own], ".2f"),
            ", ".join(f"{run.accuracy:.3f}" for run in own),
        ]
        for arm, own in shown(runs).items()
    ]


def _rates(chosen: float, tried: Sequence[float]) -> str:
    return (
        f"{chosen:g} of {', '.join(f'{rate:g}' for rate in tried)}"
        if tried[1:]
        else f"{chosen:g}, the only one"
    )


def _range(values: Sequence[float], form: str) -> str:
    low, high = f"{min(values) + 0.0:{form}}", f"{max(values) + 0.0:{form}}"
    return low if low == high else f"{low} to {high}"


def sentences(runs: Sequence[GateRun]) -> list[str]:
    r"""What follows from the runs: arms are compared only at searched learning rates and with all seeds."""
    there, said = shown(runs), []
    for arm in [arm for arm in there if arm != "gate"]:
        if "gate" not in there:
            continue
        if any(next_run(runs, arms=(one,)) is not None for one in ("gate", arm)):
            said.append(
                f"{ARMS['gate'].label} against {ARMS[arm].label}: not compared, because learning rates are not "
                "searched to the end or seeds are missing"
            )
            continue
        found = intervals.difference(*([run.correct for run in there[one]] for one in ("gate", arm)))
        said.append(
            f"test accuracy, {ARMS['gate'].label} minus {ARMS[arm].label}, each at its own best learning rate: "
            f"{tables.words(found)}"
        )
    if constants := {run.constant for own in there.values() for run in own}:
        said.append(f"the constant answer gets {max(constants):.3f} of these test sentences")
    if "gate" in there:
        opened = _range([run.largest for run in there["gate"]], ".3f")
        said.append(f"largest gate after {len(there['gate'][0].losses)} steps: {opened}")
    return said


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
