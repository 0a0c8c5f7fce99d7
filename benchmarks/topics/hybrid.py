r"""Hybrids beside their own parts: MAM's as large as in MAM, UniPELT's those of `methods`, in other sizes.

UniPELT has Pfeiffer's adapter with r=24 and a prefix of 10 tokens, `methods` r=16 and 20 tokens.
MAM's parallel adapter is half as wide as the model, and its prefix has 30 tokens. A prefix that trains its numbers
themselves starts at N(0, 1) and moves by about the sum of the learning rates: at an adapter's rate it stays random. In
`mam-network` and `unipelt-network` a network makes it, as in the papers; `ungated` are UniPELT's parts without gates.
In the hybrids, and in `prefix-network` n=30, the text keeps its positions; after `prefix n=30` it is shifted.
"""

from topics._film import SETTING, arm
from topics.methods import METHODS

from coursekit.comparison.candidates import Candidate
from coursekit.experiments.recipe import Grid
from coursekit.methods import Hybrid, LoRA, MAMAdapter, ParallelAdapter, PfeifferAdapter, PrefixTuning, UniPELT
from coursekit.methods.mechanism.method import Method

__all__ = ["GRID", "SETTING"]

#: With the network that makes the prefix, of the papers' width.
NETWORK: dict[str, Method] = {
    "mam-network": MAMAdapter(n=30, hidden=800),
    "unipelt-network": UniPELT(n=10, hidden=512),
    "ungated": Hybrid(PrefixTuning(n=10, hidden=512, shifted=False), PfeifferAdapter(r=24), LoRA(r=8, alpha=8)),
    "prefix-network n=30": PrefixTuning(n=30, hidden=800, shifted=False),
}

GRID = Grid(
    topic="hybrid",
    arms=(
        arm("mam", METHODS["mam"], 3e-4),
        arm("parallel r=192", Candidate("additive", ParallelAdapter(r=192), 1e-3), 1e-3),
        arm("prefix n=30", Candidate("additive", PrefixTuning(n=30, hidden=None), 3e-2), 3e-2),
        *(arm(name, Candidate("hybrid", method, 1e-3), 1e-3) for name, method in NETWORK.items()),
    ),
    reference="mam",
)
