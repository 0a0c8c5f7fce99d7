r"""A model with its weights rounded to a code, for a while: what a code does to outputs, without its storage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from coursekit.qlora.model import SKIP, to_quantize
from coursekit.quantization.blockwise import quantize_blockwise


@contextmanager
def rounded(
    model: nn.Module, code: str = "nf4", block: int = 64, double: bool = False, skip: Iterable[str] | str = SKIP
) -> Iterator[nn.Module]:
    r"""Inside, each weight that `quantize_model` would quantize has the value that its codes stand for.

    The weights stay in their own precision and place, so everything runs as before, at the speed of before.
    Afterwards they are what they were, to the bit, also after an error. Raises CourseError as `quantize_model` does.
    """
    layers = [model.get_submodule(path) for path in to_quantize(model, skip, code, block)]
    # Blocks run along the rows of (out, in); a Conv1D stores its transpose.
    weights = [layer.weight.t() if isinstance(layer, Conv1D) else layer.weight for layer in layers]
    kept = []
    try:
        with torch.no_grad():
            for weight in weights:
                codes = quantize_blockwise(weight, code, block, double)
                kept.append(weight.detach().clone())
                codes.dequantize(out=weight)
        yield model
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, kept, strict=False):
                weight.copy_(old)
