r"""A model with its weights rounded to a code, for a while: what a code does to outputs, without its storage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from coursekit.errors import CourseError
from coursekit.qlora.model import SKIP, quantizable
from coursekit.quantization.blockwise import quantize_blockwise
from coursekit.quantization.checks import block_of
from coursekit.quantization.codes import code as table


@contextmanager
def rounded(
    model: nn.Module,
    code: str = "nf4",
    block: int = 64,
    double: bool = False,
    skip: Iterable[str] | str = SKIP,
) -> Iterator[nn.Module]:
    r"""Inside, each weight that `quantize_model` would quantize has the value that its codes stand for.

    The weights stay in their own precision and place, so everything runs as before, at the speed of before.
    Afterwards they are what they were, to the bit, also after an error. Raises CourseError as `quantize_model` does.
    """
    block_of(block, (len(table(code)) - 1).bit_length())
    paths = quantizable(model, skip)
    if not paths:
        raise CourseError(
            "nothing to quantize: the model has no nn.Linear or Conv1D but those that are skipped"
        )
    layers = [model.get_submodule(path) for path in paths]
    # Blocks run along the rows of (out, in); a Conv1D stores its transpose.
    weights = [layer.weight.t() if isinstance(layer, Conv1D) else layer.weight for layer in layers]
    kept = []
    try:
        with torch.no_grad():
            for weight in weights:
                values = quantize_blockwise(weight, code, block, double).dequantize()
                kept.append(weight.detach().clone())
                weight.copy_(values)
        yield model
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, kept, strict=False):
                weight.copy_(old)
