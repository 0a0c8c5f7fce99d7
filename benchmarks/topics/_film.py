r"""What the topics on the encoder have in common: film sentences in two classes, MiniLM, arms from candidates."""

from __future__ import annotations

from typing import Any

from torch import nn

from coursekit.comparison.bench import Bench, Setting
from coursekit.comparison.candidates import Candidate
from coursekit.comparison.evidence.cell import Recipe
from coursekit.comparison.evidence.grid import Arm
from coursekit.comparison.rates import around
from coursekit.methods.mechanism.method import Method
from coursekit.methods.soft_prompts.pooling import pool_text

#: All test sentences: the more there are, the smaller a difference can be told.
SETTING = Setting("film", "two", "minilm", batch_size=16, sentences=2009, validation=300)


def reading_the_text(method: Method, model: nn.Module, bench: Bench, seed: int) -> nn.Module:
    r"""Attach virtual tokens, with the head on the text's [CLS]: so it is without them, and with a prefix."""
    return pool_text(method.attach(model))


def arm(
    name: str,
    candidate: Candidate,
    rate: float,
    steps: int | None = None,
    doublings: int | None = None,
    **of: Any,
) -> Arm:
    r"""One line of the experiment, its search beginning around `rate`.

    of: for tables and pictures; what of it is a field of `Recipe`, such as batch_size, goes there as well.
    """
    recipe = {key: of[key] for key in ("batch_size", "examples", "bucket", "autocast", "also") if key in of}
    return Arm(name, Recipe(candidate, **recipe), tuple(around(rate)), of, steps, doublings)
