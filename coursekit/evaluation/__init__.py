r"""Evaluation: what a model can do, each figure with its interval.

Open `classification.py` first: `accuracy`. `scores.py` holds the measured values and their intervals, `running.py` what
all scores share, `compatible.py` whether data and model go together.
"""

from coursekit.evaluation.classification import accuracy, best_constant, score_choices
from coursekit.evaluation.generation import generate
from coursekit.evaluation.held_out import answer_nats
from coursekit.evaluation.scores import Score, pairs_in_order, wilson

__all__ = ["Score", "accuracy", "answer_nats", "best_constant", "generate", "pairs_in_order", "score_choices", "wilson"]
