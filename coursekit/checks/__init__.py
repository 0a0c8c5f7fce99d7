r"""Exercises and their checks: `check("lora-forward", lora_forward)` and `hint("lora-forward")`."""

from coursekit.checks.core import Exercise, Mutant, Result, check, exercises, hint, judge, mistake
from coursekit.checks.yours import yours

__all__ = ["Exercise", "Mutant", "Result", "check", "exercises", "hint", "judge", "mistake", "yours"]
