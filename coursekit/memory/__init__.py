r"""What training needs in memory: predicted from the config alone, and measured in one step.

`bill(10e9)` needs a number of parameters only, `predict(config, ...)` a model, method, batch and precision;
`measure(model, batch)` runs one step.

Open `breakdown.py` first, then `predict.py`. `moments.py` has the picture of a training step, `activations/` one block
of it, and `inserted/` what each method puts into a block.
"""

from coursekit.memory.activations import Step, block_steps
from coursekit.memory.breakdown import GB, MB, Breakdown, GiB, Point, Term
from coursekit.memory.hardware import Card, card, cards
from coursekit.memory.measure import measure, random_batch
from coursekit.memory.precision import PRECISIONS, STATES, optimizer_bytes
from coursekit.memory.predict import bill, predict
from coursekit.memory.quantized import Quantized

__all__ = [
    "GB", "MB", "PRECISIONS", "STATES", "Breakdown", "Card", "GiB", "Point", "Quantized", "Step", "Term", "bill",
    "block_steps", "card", "cards", "measure", "optimizer_bytes", "predict", "random_batch",
]  # fmt: skip
