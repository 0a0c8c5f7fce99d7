r"""Evaluation: what a model can do, each figure with its interval.

Open `classification.py` first: `accuracy`. `scores.py` holds the measured values and their intervals, `running.py` what
all scores share, `compatible.py` whether data and model go together.
"""

from coursekit.evaluation.choices import score_choices
from coursekit.evaluation.classification import accuracy, best_constant, regression
from coursekit.evaluation.generation import format_adherence, generate
from coursekit.evaluation.held_out import answer_loss, answer_nats
from coursekit.evaluation.perplexity_of_texts import perplexity
from coursekit.evaluation.scores import Perplexity, Regression, Score, wilson

__all__ = [
    "Perplexity",
    "Regression",
    "Score",
    "accuracy",
    "answer_loss",
    "answer_nats",
    "best_constant",
    "format_adherence",
    "generate",
    "perplexity",
    "regression",
    "score_choices",
    "wilson",
]
