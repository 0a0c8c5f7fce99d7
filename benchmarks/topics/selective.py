r"""Selective methods: how deep to train, which entries at equal number, FAR and BitFit beside them."""

from topics._film import SETTING, arm

from coursekit.comparison.candidates import CANDIDATES, Candidate, alone, drawn, on_batches
from coursekit.experiments.recipe import Grid
from coursekit.methods import FishMask, TopLayers

__all__ = ["GRID", "SETTING"]

KEEP = 0.005


#: How a mask by this score gets onto the model.
MASKS = {"fisher": on_batches, "random": drawn, "magnitude": alone}


def mask(score: str) -> Candidate:
    r"""The same number of entries, chosen in another way."""
    return Candidate("selective", FishMask(keep=KEEP, score=score), 1e-2, MASKS[score])


GRID = Grid(
    topic="selective",
    arms=(
        arm("head", CANDIDATES["head"], 1e-1),
        *(arm(f"{score} mask", mask(score), 1e-2) for score in MASKS),
        *(
            arm(f"top {k}", Candidate("selective", TopLayers(k=k), 3e-4), 3e-4)
            for k in (2, 4, 6)
        ),
        arm("full", CANDIDATES["full"], 1e-4),
        arm("far", CANDIDATES["far"], 3e-3),
        arm("bitfit", CANDIDATES["bitfit"], 3e-3),
        *(
            arm(f"top {k}", Candidate("selective", TopLayers(k=k), 3e-4), 3e-4)
            for k in (1, 3, 5)
        ),
    ),
    reference="full",
)  # fmt: skip
