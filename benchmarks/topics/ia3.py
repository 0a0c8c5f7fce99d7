r"""(IA)³ beside LoRA and adapters: at equal parameters, and with few examples."""

from __future__ import annotations

from topics._film import SETTING, arm

from coursekit.comparison.candidates import CANDIDATES, Candidate
from coursekit.comparison.evidence.grid import Grid
from coursekit.methods import LoRA, PfeifferAdapter

__all__ = ["GRID", "SETTING"]

#: Training sentences -> steps: 16 sentences are one batch, again and again.
EXAMPLES = {16: 100, 64: 100, 256: 200, 1024: 300}
RATES = {"ia3": 3e-2, "lora": 3e-3, "pfeiffer": 3e-3, "full": 1e-4, "head": 1e-1}

GRID = Grid(
    topic="ia3",
    arms=(
        *(arm(name, CANDIDATES[name], rate, experiment="equal", method=name) for name, rate in RATES.items()),
        # (IA)³ has 13,824 parameters here: 3 vectors a block.
        arm(
            "lora at equal parameters",
            Candidate("reparameterised", LoRA(r=3, alpha=6, targets=("query",)), 1e-2),
            1e-2, experiment="equal", method="lora",
        ),
        arm(
            "pfeiffer at equal parameters",
            Candidate("additive", PfeifferAdapter(r=2), 1e-2),
            1e-2, experiment="equal", method="pfeiffer",
        ),
        *(
            arm(f"{name}, {n} examples", CANDIDATES[name], rate, steps, experiment="few", method=name, examples=n)
            for n, steps in EXAMPLES.items()
            for name, rate in RATES.items()
        ),
    ),
    reference="full",
    doublings=0,  # of these methods asked in `methods`
)  # fmt: skip
