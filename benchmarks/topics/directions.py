r"""How many directions a task needs: MiniLM learns to tell good films from bad along d random directions of its blocks.

`DID 100`: all weights of the blocks move along 100 directions; the head trains at the same learning rate. `said`: 1,000
parameters, seven of them factors, move every weight of the body.
"""

from topics._film import SETTING, arm
from topics.methods import METHODS

from coursekit.experiments.recipe import Candidate, Grid
from coursekit.methods import IntrinsicSAID

__all__ = ["GRID", "SETTING"]

#: Where the search begins. The columns of F have length 1: along more directions the weights move by more.
RATES = {10: 1.0, 100: 3e-1, 1000: 1e-1, 10_000: 3e-2, 300: 3e-1, 3000: 1e-1}


def along(d: int) -> IntrinsicSAID:
    r"""d directions, and no factors."""
    return IntrinsicSAID(d=d, structure=False, parts="blocks")


GRID = Grid(
    topic="directions",
    arms=(
        *(arm(name, METHODS[name], rate) for name, rate in {"full": 1e-4, "head": 1e-1, "said": 1e-1}.items()),
        *(arm(f"DID {d}", Candidate("reparameterised", along(d), rate), rate) for d, rate in RATES.items()),
    ),
    reference="full",
    best_seeds=5,
)
