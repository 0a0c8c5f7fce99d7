r"""Training: one loop for every method, and what stands around it.

Open `loop.py` first: `fit`; then `update.py`, one step of it.
`dpo.py` is what preference tuning asks of a model, `grpo.py` learns from a reward, `pretraining.py` is a small decoder
from nothing.
"""

from coursekit.training.history import History
from coursekit.training.loop import fit
from coursekit.training.objective import own_loss
from coursekit.training.optimizers import schedule
from coursekit.training.order import rows_of_step, seed_everything

__all__ = ["History", "fit", "own_loss", "rows_of_step", "schedule", "seed_everything"]
