r"""(IA)³ beside LoRA and adapters: at equal parameters, and with few examples."""

from topics._film import SETTING, arm

from coursekit.comparison.candidates import CANDIDATES, Candidate
from coursekit.experiments.recipe import Grid
from coursekit.experiments.table import few
from coursekit.methods import LoRA, PfeifferAdapter

__all__ = ["GRID", "SETTING"]

#: Of training sentences. All train for equally many steps, so that only the sentences differ.
EXAMPLES, FEW_STEPS = (16, 128, 1024), 200
RATES = {"ia3": 3e-2, "lora": 3e-3, "pfeiffer": 3e-3, "full": 1e-4, "head": 1e-1}

GRID = Grid(
    topic="ia3",
    arms=(
        *(arm(name, CANDIDATES[name], rate) for name, rate in RATES.items()),
        # (IA)³ has 13,824 parameters here, as LoRA has with r=1 on all that (IA)³ could scale in the attention. An
        # adapter cannot have as many: 11,532 with r=2, 16,146 with r=3.
        arm(
            "lora r=1",
            Candidate("reparameterised", LoRA(r=1, alpha=2, targets=("query", "key", "value")), 1e-2),
            1e-2,
        ),
        *(
            arm(
                f"pfeiffer r={r}", Candidate("additive", PfeifferAdapter(r=r), 1e-2), 1e-2,
            )
            for r in (2, 3)
        ),
        *(
            arm(
                few(name, n), CANDIDATES[name], rate, FEW_STEPS, examples=n,
            )
            for n in EXAMPLES
            for name, rate in RATES.items()
            if name != "head"
        ),
    ),
    reference="full",
)  # fmt: skip
