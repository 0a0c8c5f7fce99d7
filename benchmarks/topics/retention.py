r"""What is left of what MiniLM knew: each method learns film sentences, and a probe asks its encoder something else.

Which of four sources a sentence is from, no sentiment: logistic regressions, one for each source, on the mean of the
tokens that the tuned encoder gives. Their answers on the test sentences are the accuracy here; `film` is what the
method learned. `head` leaves the encoder as it was. Each method trains as in `methods`, at the rate tuned there.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from topics._film import SETTING
from topics.methods import METHODS
from topics.probe import PENALTIES, fit
from topics.source import task
from torch import nn

from coursekit.evaluation.running import equal_lengths, evaluating
from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Arm, Grid, Recipe
from coursekit.experiments.run import train
from coursekit.experiments.table import Cell, Run
from coursekit.models import load_encoder
from coursekit.training.history import History

__all__ = ["GRID", "SETTING"]

#: One of each kind, at the rate that data/evidence/methods.csv found.
RATES = {
    "head": 3e-1, "full": 1e-4, "lora": 3e-3, "bitfit": 3e-3, "ia3": 3e-2, "prefix": 3e-2, "pfeiffer": 3e-3,
    "norms": 3e-3, "top-layers": 3e-4, "mam": 3e-4,
}  # fmt: skip

GRID = Grid(
    topic="retention",
    arms=tuple(Arm(name, Recipe(METHODS[name]), (rate,)) for name, rate in RATES.items()),
    reference="head",
)


@cache
def asked() -> dict[str, tuple[list[list[int]], np.ndarray]]:
    r"""Token ids and sources of each split; as many test sentences as the methods have of film."""
    prepared = task().for_encoder(load_encoder(SETTING.model)[1])
    rows = {split: prepared.split(split) for split in ("train", "validation", "test")}
    rows["test"] = rows["test"].select(range(SETTING.sentences))
    return {split: (of["input_ids"][:], np.array(of["labels"])) for split, of in rows.items()}


def features(model: nn.Module, ids: list[list[int]]) -> np.ndarray:
    r"""The mean of the tokens that the encoder gives, (sentences, d)."""
    found = np.empty((len(ids), model.config.hidden_size))  # type: ignore[union-attr,arg-type]
    with evaluating(model):
        for group in equal_lengths(ids, 64):
            rows = torch.tensor([ids[i] for i in group], device=model.device)  # type: ignore[arg-type]
            found[group] = model.get_submodule("bert")(rows).last_hidden_state.mean(1).double().cpu()
    return found


def probe(model: nn.Module) -> dict[str, np.ndarray]:
    r"""Which validation and test sentences are told right, with the penalty that is best on validation."""
    x = {split: features(model, ids) for split, (ids, _) in asked().items()}
    labels = {split: y for split, (_, y) in asked().items()}
    center, spread = x["train"].mean(0), x["train"].std(0)
    x = {split: (values - center) / spread for split, values in x.items()}

    def right(penalty: float) -> dict[str, np.ndarray]:
        ws = np.stack([fit(x["train"], labels["train"] == source, penalty) for source in range(4)], 1)
        return {split: (x[split] @ ws[:-1] + ws[-1]).argmax(1) == labels[split] for split in ("validation", "test")}

    return max(map(right, PENALTIES), key=lambda found: found["validation"].mean())


def carry(bench: Bench, recipe: Recipe, cell: Cell) -> list[Run]:
    r"""Train as in `methods`, then ask the probe."""
    found: dict[str, np.ndarray] = {}

    def measure(model: nn.Module, history: History | None) -> dict[str, object]:
        if history is not None:
            found.update(probe(model))
        return {}

    (run,) = train(bench, recipe, cell, GRID.every(cell.steps), measure=measure)
    film = {"film": f"{np.mean(run.correct):.4f}"}
    point = ((cell.steps, float(found["validation"].mean())),)
    return [replace(run, curve=point, correct=tuple(found["test"].tolist()), margins=(), more=run.more | film)]
