r"""Evaluation: what a model can do, each figure with its interval.

Open `evaluate.py` first; `scores.py` holds the measured values and their intervals.
"""

from coursekit.evaluation.evaluate import (
    accuracy,
    answer_loss,
    format_adherence,
    generate,
    perplexity,
    regression,
    score_choices,
)
from coursekit.evaluation.scores import Perplexity, Regression, Score, wilson

__all__ = [
    "Perplexity",
    "Regression",
    "Score",
    "accuracy",
    "answer_loss",
    "format_adherence",
    "generate",
    "perplexity",
    "regression",
    "score_choices",
    "wilson",
]
