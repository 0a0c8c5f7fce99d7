r"""Hybrids beside their own parts, each as large as in the hybrid: `methods` has smaller ones.

MAM's parallel adapter is half as wide as the model, and its prefix has 30 tokens.
"""

from __future__ import annotations

from topics._film import SETTING, arm
from topics.methods import METHODS

from coursekit.comparison.candidates import Candidate
from coursekit.experiments.recipe import Grid
from coursekit.methods import ParallelAdapter, PrefixTuning

__all__ = ["GRID", "SETTING"]

GRID = Grid(
    topic="hybrid",
    arms=(
        arm("mam", METHODS["mam"], 3e-4),
        arm("parallel r=192", Candidate("additive", ParallelAdapter(r=192), 1e-3), 1e-3),
        arm("prefix n=30", Candidate("additive", PrefixTuning(n=30, hidden=None), 3e-2), 3e-2),
    ),
    reference="mam",
)
