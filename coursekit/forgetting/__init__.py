r"""Remedies against catastrophic forgetting: keep old abilities while learning a new task.

Mixed data, another choice of the training rows:

    fit(model, replay(newspaper, film, share=0.05, rows=2000))     # 95 % the new task, and 5 % the old one

A penalty for leaving the old weights, given to `fit` as its objective. Make it before training, while the model still
has the weights to keep:

    fit(model, newspaper, objective=L2SP(model, alpha=0.01, beta=0.01))            # every weight counts alike
    fit(model, newspaper, objective=EWC(model, batches_of_film, strength=1000.0))  # as much as it matters to film
"""

from coursekit.forgetting.penalties import EWC, L2SP
from coursekit.forgetting.rehearsal import replay

__all__ = ["EWC", "L2SP", "replay"]
