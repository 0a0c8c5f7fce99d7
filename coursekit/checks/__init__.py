r"""Exercises and their checks: `check("lora-forward", lora_forward)` and `hint("lora-forward")`."""

from coursekit.checks.core import (
    Exercise,
    Mutant,
    Posed,
    Result,
    check,
    every_kind,
    exercises,
    hint,
    judge,
    mistake,
)
from coursekit.checks.numeric import numbers
from coursekit.checks.yours import yours

__all__ = ["Exercise", "Mutant", "Posed", "Result", "check", "every_kind", "exercises", "hint", "judge", "mistake",
           "numbers", "yours"]  # fmt: skip
