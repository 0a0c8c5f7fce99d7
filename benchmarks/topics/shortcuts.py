r"""Do batches by length and products in bfloat16 cost accuracy? LoRA with neither, one and both, and in a short run."""

from topics._film import SETTING, arm

from coursekit.comparison.candidates import CANDIDATES
from coursekit.experiments.recipe import Grid

__all__ = ["GRID", "SETTING"]

LORA = CANDIDATES["lora"]

GRID = Grid(
    topic="shortcuts",
    arms=(
        arm("plain", LORA, 3e-3, bucket=False, autocast=False),
        arm("by-length", LORA, 3e-3, bucket=True, autocast=False),
        arm("by-length-bfloat16", LORA, 3e-3, bucket=True, autocast=True),
        # As many steps as a notebook has time for: few batches of one length each are a poor sample.
        arm("plain-40", LORA, 3e-3, 40, bucket=False, autocast=False),
        arm("by-length-40", LORA, 3e-3, 40, bucket=True, autocast=False),
    ),
    reference="plain",
)
