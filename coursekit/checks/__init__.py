r"""Exercises and their checks: `check("lora-merge", lora_merge)`."""

from coursekit.checks.core import BaseExercise, Exercise, Result, check, every_kind, exercises, judge, mistake
from coursekit.checks.numeric import numbers
from coursekit.checks.training import latest, practice, yours

__all__ = ["BaseExercise", "Exercise", "Result", "check", "every_kind", "exercises", "judge", "latest", "mistake",
           "numbers", "practice", "yours"]  # fmt: skip
