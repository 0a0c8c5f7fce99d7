r"""What the topics on the encoder have in common: film sentences in two classes, MiniLM, arms from candidates."""

from typing import Any

from torch import nn

from coursekit.comparison.candidates import Candidate
from coursekit.experiments.bench import Bench, Setting
from coursekit.experiments.recipe import Arm, Recipe, neighbours
from coursekit.methods.mechanism.method import Method
from coursekit.methods.soft_prompts.pooling import pool_text

#: All test sentences: the more there are, the smaller a difference can be told.
SETTING = Setting("film", "two", "minilm", batch_size=16, sentences=2009, validation=300)


def reading_the_text(method: Method, model: nn.Module, bench: Bench, seed: int) -> nn.Module:
    r"""Attach virtual tokens, with the head on the text's [CLS]: so it is without them, and with a prefix."""
    return pool_text(method.attach(model))


def arm(
    name: str, candidate: Candidate, rate: float, steps: int | None = None, doublings: int | None = None, **how: Any
) -> Arm:
    r"""One line of the experiment, its search beginning around `rate`. how: fields of `Recipe`."""
    return Arm(name, Recipe(candidate, **how), neighbours(rate), steps, doublings)
