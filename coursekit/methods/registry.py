r"""Finds the method that wrote a checkpoint from its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from coursekit import interop
from coursekit.errors import CourseError, short
from coursekit.methods.lora_config import more_than_lora
from coursekit.methods.mechanism.method import Method


def from_checkpoint(folder: str | Path) -> Method:
    r"""The method, with its hyperparameters, of a checkpoint that any method here, or peft, has written.

    `from_checkpoint(folder).load(model, folder)` puts it on a model. Raises CourseError for a folder that is no
    checkpoint and for a method that the course does not have.
    """
    return restored(*interop.read(folder))


def restored(config: dict[str, Any], tensors: dict[str, Tensor]) -> Method:
    r"""The same for a checkpoint that has been read."""
    known = {
        method.kind: method
        for method in _concrete(Method)
        if method.kind != "FULL"  # it writes whole models
    }
    kind = config.get("peft_type")
    if more_than_lora(config):  # peft's way to train biases as well, or vectors of tokens
        kind = "HYBRID"
    if not isinstance(kind, str) or kind not in known:
        from peft import PeftType

        theirs = " (peft.PeftModel.from_pretrained reads it)" if str(kind) in PeftType.__members__ else ""
        raise CourseError(
            f"the checkpoint holds {short(kind)}, a method that is not read here{theirs}; read are "
            f"{', '.join(sorted(known))}"
        )
    return known[kind].restored(config, tensors)


def _concrete(kind: type[Method]) -> Iterator[type[Method]]:
    r"""All classes below `kind` that are methods themselves, not what several have in common."""
    for below in kind.__subclasses__():
        if "kind" in vars(below):
            yield below
        yield from _concrete(below)
