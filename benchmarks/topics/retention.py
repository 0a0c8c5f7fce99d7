r"""What is left of what MiniLM was made for, and of what it knew, when a method has learned film sentences.

Made for: sentences that mean the same lie close together. The accuracy here is the share of 2,009 sentences from the
three other sources whose nearest neighbour among them is the one that the untuned encoder gives; of all tokens' mean,
by cosine. `probe`: which of the four sources a sentence is from, told by logistic regressions on that mean. `film`:
what the method learned. `head` leaves the encoder as it was. Each method trains as in `methods`, at the rate tuned
there.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from topics import probe, source
from topics._film import SETTING
from topics.methods import METHODS
from torch import nn

from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Arm, Grid, Recipe
from coursekit.experiments.run import autocast, train
from coursekit.experiments.table import Cell, Run
from coursekit.models import load_encoder
from coursekit.tasks.sentiment import FILES
from coursekit.training.history import History

__all__ = ["GRID", "SETTING"]

#: One of each kind, at the rate that data/evidence/methods.csv found.
RATES = {
    "head": 3e-1, "full": 1e-4, "lora": 3e-3, "bitfit": 3e-3, "ia3": 3e-2, "prefix": 3e-2, "pfeiffer": 3e-3,
    "top-layers": 3e-4,
}  # fmt: skip

GRID = Grid(
    topic="retention",
    arms=tuple(Arm(name, Recipe(METHODS[name]), (rate,)) for name, rate in RATES.items()),
    reference="head",
)


@cache
def asked() -> dict[str, tuple[list[list[int]], np.ndarray]]:
    r"""Token ids and sources, as numbers, of each split."""
    prepared = source.task().for_encoder(load_encoder(SETTING.model)[1])
    rows = {split: prepared.split(split) for split in ("train", "validation", "test")}
    return {split: (of["input_ids"][:], np.array(of["labels"])) for split, of in rows.items()}


def features(model: nn.Module, device: torch.device) -> dict[str, np.ndarray]:
    r"""The mean of the tokens that the encoder gives, (sentences, d), of each split."""
    return {split: probe.features(model, ids, device)["probe"] for split, (ids, _) in asked().items()}


def neighbours(x: dict[str, np.ndarray]) -> np.ndarray:
    r"""Of each test sentence that is not of film the nearest other, (sentences,)."""
    other = x["test"][asked()["test"][1] != [*FILES].index(SETTING.domain)][: SETTING.sentences]
    unit = other / np.linalg.norm(other, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -1)
    return near.argmax(1)


def told(x: dict[str, np.ndarray]) -> float:
    r"""The share of test sentences whose source is told, with the penalty that is best on validation."""
    labels = {split: y for split, (_, y) in asked().items()}
    x = probe.standardized(x)

    def right(penalty: float) -> dict[str, float]:
        ws = np.stack([probe.fit(x["train"], labels["train"] == name, penalty) for name in range(len(FILES))], 1)
        return {s: float(((x[s] @ ws[:-1] + ws[-1]).argmax(1) == labels[s]).mean()) for s in ("validation", "test")}

    return max(map(right, probe.PENALTIES), key=lambda found: found["validation"])["test"]


@cache
def before(bench: Bench) -> np.ndarray:
    r"""The neighbours that the untuned encoder gives."""
    with autocast(bench.device.type, on=True):
        return neighbours(features(bench.model(0), bench.device))


def carry(bench: Bench, recipe: Recipe, cell: Cell) -> list[Run]:
    r"""Train as in `methods`, then ask the encoder."""
    found: dict[str, Any] = {}

    def measure(model: nn.Module, history: History | None) -> dict[str, object]:
        if history is None:
            return {}
        x = features(model, bench.device)
        found["kept"] = neighbours(x) == before(bench)
        return {"probe": f"{told(x):.4f}"}

    (run,) = train(bench, recipe, cell, GRID.every(cell.steps), measure=measure)
    more = run.more | {"film": f"{np.mean(run.correct):.4f}"}
    return [replace(run, correct=tuple(found["kept"].tolist()), margins=(), more=more)]
