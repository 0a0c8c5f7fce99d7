r"""The methods that matter, each with the head on the mean of the tokens, for which MiniLM was trained."""

from dataclasses import replace

from topics._film import SETTING, arm
from topics.methods import METHODS
from topics.pooling import read_the_mean, reading_the_mean
from torch import nn

from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Grid
from coursekit.methods.mechanism.method import Method
from coursekit.methods.soft_prompts.pooling import pool_text

__all__ = ["GRID", "SETTING"]

#: Begins at the rates tuned with the head on [CLS].
RATES = {
    "head": 1e-1, "full": 1e-4, "lora": 3e-3, "prompt": 1e-1, "bitfit": 3e-3, "ia3": 3e-2, "prefix": 3e-2,
    "pfeiffer": 3e-3, "houlsby": 3e-3, "norms": 1e-2, "top-layers": 1e-3, "dora": 3e-3,
    "lora-bitfit": 3e-3, "compacter": 1e-2, "mam": 3e-4,
}  # fmt: skip


def reading_the_mean_of_the_text(method: Method, model: nn.Module, bench: Bench, seed: int) -> nn.Module:
    r"""Attach virtual tokens, with the head on the mean of the text's states: no virtual token is among them."""
    return read_the_mean(pool_text(method.attach(model)), first=True)


READING = {"prompt": reading_the_mean_of_the_text}

GRID = Grid(
    topic="mean",
    arms=tuple(
        arm(name, replace(METHODS[name], attach=READING.get(name, reading_the_mean)), rate)
        for name, rate in RATES.items()
    ),
    reference="full",
    best_seeds=5,
)
