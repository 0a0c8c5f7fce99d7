r"""Another task, sentiment of product reviews: does the order of the methods on film sentences hold there?"""

from __future__ import annotations

from dataclasses import replace

from topics._film import SETTING as FILM
from topics._film import arm
from topics.mean import RATES
from topics.methods import METHODS

from coursekit.experiments.recipe import Arm, Grid

__all__ = ["GRID", "SETTING", "some"]

SETTING = replace(FILM, domain="product")

#: One of each kind.
NAMES = (
    "head", "full", "lora", "bitfit", "ia3", "prefix", "prompt", "pfeiffer", "norms", "top-layers", "compacter", "mam"
)  # fmt: skip


def some() -> tuple[Arm, ...]:
    r"""The methods, each search beginning around the rate tuned on film sentences."""
    return tuple(arm(name, METHODS[name], RATES[name]) for name in NAMES)


#: Two cores: the first seed chooses the rate, and three run at it.
GRID = Grid(
    topic="product", arms=some(), reference="full", seeds=(0,), judged_by="the first seed's validation accuracy"
)
