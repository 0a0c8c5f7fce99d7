r"""Another task, sentiment of product reviews: does the order of the methods on film sentences hold there?"""

from dataclasses import replace

from topics._film import SETTING as FILM
from topics._film import arm
from topics.mean import RATES
from topics.methods import METHODS

from coursekit.experiments.recipe import Grid

__all__ = ["GRID", "SETTING"]

SETTING = replace(FILM, domain="product")

#: One of each kind.
NAMES = (
    "head", "full", "lora", "bitfit", "ia3", "prefix", "prompt", "pfeiffer", "norms", "top-layers", "compacter", "mam"
)  # fmt: skip

#: Each search begins around the rate tuned on film sentences. Two cores: the first seed chooses the rate, and three
#: run at it.
GRID = Grid(
    topic="product",
    arms=tuple(arm(name, METHODS[name], RATES[name]) for name in NAMES),
    reference="full",
    seeds=(0,),
    judged_by="the first seed's validation accuracy",
)
