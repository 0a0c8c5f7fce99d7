r"""What a checkpoint of virtual tokens holds."""

from __future__ import annotations

from torch import Tensor

from coursekit.errors import CourseError

#: peft's name for the one tensor of a prompt: its first dimension is n.
KEY = "prompt_embeddings"


def check_length(n: int, tensors: dict[str, Tensor], suffix: str = KEY, dim: int = 0) -> None:
    r"""Raise CourseError where a prompt in a checkpoint has another number of virtual tokens than its config says, n.

    Asked before a model makes room for n of them. suffix, dim: the prompts' keys end so, and have n there.
    """
    for key, prompt in tensors.items():
        if key.endswith(suffix) and (prompt.dim() <= dim or prompt.shape[dim] != n):
            raise CourseError(
                f"this checkpoint is damaged: its config says {n} virtual tokens, and {key} has the shape "
                f"{tuple(prompt.shape)}; save it again"
            )
