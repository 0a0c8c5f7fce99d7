r"""Training: one loop for every method, and what stands around it.

Open `loop.py` first: `fit`. `dpo.py` is preference tuning, `pretraining.py` a small decoder from nothing.
"""

from coursekit.training.history import History
from coursekit.training.loop import fit, own_loss, rows_of_step, schedule, seed_everything

__all__ = [
    "History",
    "fit",
    "own_loss",
    "rows_of_step",
    "schedule",
    "seed_everything",
]
