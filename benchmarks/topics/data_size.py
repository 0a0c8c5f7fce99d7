r"""LoRA's rank and the number of training sentences: does full fine-tuning pull away as there is more to learn?

The two axes of "LoRA without regret" (Schulman et al. 2025): a low rank is said to fall behind once the data ask for
more than it can hold. Ranks 1, 8 and 64 and full fine-tuning, on 16, 128 and 1,024 sentences, 200 steps each as in
`ia3`, and on all of them, 300 steps as in `lora`.
"""

from topics._film import SETTING, arm
from topics.ia3 import EXAMPLES, FEW_STEPS
from topics.lora import FULL, PAPER, lora

from coursekit.experiments.recipe import Grid
from coursekit.experiments.table import few

__all__ = ["GRID", "SETTING"]

RATES = {1: 1e-2, 8: 3e-3, 64: 1e-3}

GRID = Grid(
    topic="data_size",
    arms=(
        arm("full", FULL, 1e-4),
        *(lora(f"r={r}", r, PAPER, rate) for r, rate in RATES.items()),
        *(arm(few("full", n), FULL, 1e-4, FEW_STEPS, examples=n) for n in EXAMPLES),
        *(
            lora(few(f"r={r}", n), r, PAPER, rate, steps=FEW_STEPS, examples=n)
            for n in EXAMPLES
            for r, rate in RATES.items()
        ),
    ),
    reference="full",
)  # fmt: skip
