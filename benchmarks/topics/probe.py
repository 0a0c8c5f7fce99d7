r"""Linear probes of MiniLM, trained to their end: logistic regression on what the frozen encoder says of each sentence.

The head of `pooling` has 300 steps, as every method has. A probe needs no encoder in its steps, so that a user would
train it until nothing is left to gain: its loss is convex, and no seed, order or learning rate decides where it ends.
With few examples the seed draws them, the same ones as in `ia3`.
"""

import time
from functools import cache

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from topics._film import SETTING
from torch import nn

from coursekit.evaluation.running import equal_lengths, evaluating
from coursekit.experiments import machine
from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Arm, Grid
from coursekit.experiments.table import Cell, Run, drawn, few
from coursekit.training import rows_of_step

__all__ = ["GRID", "SETTING"]

#: Of training sentences, where not all are read.
EXAMPLES = (16, 128, 1024)
#: Strengths of the penalty on the squared norm of the weights; the validation sentences choose. With few examples
#: there are stronger ones, too.
PENALTIES, STRONGER = (1e-4, 1e-3, 1e-2, 1e-1), (1.0, 10.0)

GRID = Grid(
    topic="probe",
    arms=(
        *(Arm(name, name, (0.0,), 0) for name in ("probe", "probe-cls")),
        *(Arm(few("probe", n), "probe", (0.0,), 0) for n in EXAMPLES),
    ),
    reference="probe",
)


def features(model: nn.Module, ids: list[list[int]], device: torch.device) -> dict[str, np.ndarray]:
    r"""What each arm reads of sentences with these token ids, (sentences, d)."""
    found: dict[str, np.ndarray] = {}
    with evaluating(model):
        for group in equal_lengths(ids, 64):
            out = model.get_submodule("bert")(torch.tensor([ids[i] for i in group], device=device))
            for name, x in (("probe", out.last_hidden_state.mean(1)), ("probe-cls", out.pooler_output)):
                found.setdefault(name, np.empty((len(ids), x.shape[-1])))[group] = x.double().cpu()
    return found


@cache
def read(bench: Bench, split: str) -> dict[str, np.ndarray]:
    r"""The features of a split, and its labels, (sentences,)."""
    rows = bench.prepared.split(split)
    rows = rows if split == "train" else rows.select(range(bench.sentences(split)))
    return features(bench.model(0), rows["input_ids"][:], bench.device) | {"labels": np.array(rows["labels"])}


def standardized(x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    r"""Each split's features, (sentences, d), with the training sentences' mean 0 and standard deviation 1."""
    center, spread = x["train"].mean(0), x["train"].std(0)
    return {split: (values - center) / spread for split, values in x.items()}


def fit(x: np.ndarray, labels: np.ndarray, penalty: float) -> np.ndarray:
    r"""Weights and bias of the logistic regression with that penalty, at the minimum of its loss.

    x: (sentences, d). labels: (sentences,), 0 or 1. Returns (d + 1,).
    """
    sign = 2 * labels - 1

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margins = sign * (x @ w[:-1] + w[-1])
        slope = -expit(-margins) * sign / len(x)
        gradient = np.append(slope @ x + penalty * w[:-1], slope.sum())
        return np.logaddexp(0, -margins).mean() + penalty / 2 * w[:-1] @ w[:-1], gradient

    return minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 10_000}).x


def carry(bench: Bench, name: str, cell: Cell) -> list[Run]:
    r"""Fit the probe `name` with each penalty, keep the best on the validation sentences, test it."""
    start, splits = time.perf_counter(), {split: read(bench, split) for split in ("train", "validation", "test")}
    n = drawn(cell.arm)
    if n is not None:
        rows = rows_of_step(len(splits["train"]["labels"]), n, cell.seed, 0)
        splits["train"] = {key: values[rows] for key, values in splits["train"].items()}
    x = standardized({split: found[name] for split, found in splits.items()})

    def margins(split: str, w: np.ndarray) -> np.ndarray:
        return x[split] @ w[:-1] + w[-1]

    def right(split: str, w: np.ndarray) -> np.ndarray:
        return (margins(split, w) > 0) == splits[split]["labels"]

    penalties = PENALTIES if n is None else (*PENALTIES, *STRONGER)
    fits = {penalty: fit(x["train"], splits["train"]["labels"], penalty) for penalty in penalties}
    chosen = max(penalties, key=lambda penalty: right("validation", fits[penalty]).mean())
    w = fits[chosen]
    return [
        Run(
            cell,
            ((0, float(right("validation", w).mean())),),
            tuple(right("test", w).tolist()),
            len(w),
            time.perf_counter() - start,
            margins=tuple(margins("test", w).tolist()),
            more={"processor": machine.device_name(bench.device), "penalty": f"{chosen:g}"},
        )
    ]
