r"""The families whose activations are modelled: those that were compared with measured steps."""

from __future__ import annotations

from coursekit.architecture import Architecture
from coursekit.errors import CourseError

MODELLED = ("bert", "roberta", "electra", "distilbert", "gpt2", "opt", "llama", "qwen3")


def check_modelled(arch: Architecture) -> None:
    r"""Raise CourseError where a figure would be a guess."""
    if arch.family not in MODELLED:
        raise CourseError(
            f"the activations of {arch.family} are not modelled: take states_only=True for weights, gradients and "
            "optimizer, which are exact, or measure a step with memory.measure"
        )
