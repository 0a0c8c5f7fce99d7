r"""Do batches by length and products in bfloat16 cost accuracy? LoRA with neither, one and both."""

from __future__ import annotations

from topics._film import SETTING, arm

from coursekit.comparison.candidates import CANDIDATES
from coursekit.comparison.evidence.grid import Grid

__all__ = ["GRID", "SETTING"]

LORA = CANDIDATES["lora"]

GRID = Grid(
    topic="shortcuts",
    arms=(
        arm("plain", LORA, 3e-3, bucket=False, autocast=False),
        arm("by-length", LORA, 3e-3, bucket=True, autocast=False),
        arm("by-length-bfloat16", LORA, 3e-3, bucket=True, autocast=True),
    ),
    reference="plain",
    doublings=0,
)
