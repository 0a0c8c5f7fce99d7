r"""How a model is set while it trains: its mode, its precision, no cache, activations stored or recomputed.

Trainable parameters in half precision are held in float32 meanwhile (master weights), and autocast does the arithmetic
in the model's own precision. A float16 model always computes under autocast, with a scaled loss, because its range is
small. An adapter in float32 on a bfloat16 base needs neither: the method decides how the two meet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from coursekit.errors import CourseError
from coursekit.modes import in_mode

_HALF = (torch.float16, torch.bfloat16)


@contextmanager
def training_mode(model: nn.Module, trained: Collection[nn.Parameter], *, recompute: bool = False) -> Iterator[None]:
    r"""`model` ready for training steps, and afterwards as it was but for the values of `trained`.

    Train mode, no key-value cache, half-precision parameters in float32, no gradients left over from before or behind.
    recompute: compute each layer's activations again in the backward pass.
    """
    with ExitStack() as stack:
        stack.enter_context(in_mode(model, training=True))
        stack.enter_context(no_key_value_cache(model))
        if recompute:
            stack.enter_context(recomputed_activations(model))
        stack.enter_context(master_weights(trained))
        for parameter in trained:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter in trained:
                parameter.grad = None


@contextmanager
def no_key_value_cache(model: nn.Module) -> Iterator[None]:
    r"""A decoder would keep keys and values for generation, which training does not use."""
    config = getattr(model, "config", None)
    before = getattr(config, "use_cache", None)
    if before is None:
        yield
        return
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = before


@contextmanager
def recomputed_activations(model: Any) -> Iterator[None]:
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise CourseError(f"{type(model).__name__} has no activation checkpointing: call fit without it")
    if model.is_activation_checkpointing:
        yield
        return
    # Not reentrant: that one needs an input with a gradient, which a frozen embedding does not give.
    model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
        # transformers hooks the embeddings to require a gradient and leaves the hook behind.
        model.disable_input_require_grads()


def half_precision(model: nn.Module, trained: Iterable[nn.Parameter]) -> torch.dtype | None:
    r"""The precision to autocast to, None where the model needs no help."""
    if any(p.dtype is torch.float16 for p in model.parameters()):
        return torch.float16
    return torch.bfloat16 if any(p.dtype is torch.bfloat16 for p in trained) else None


@contextmanager
def master_weights(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    r"""Half-precision parameters in float32 meanwhile, and then in the precision they came with."""
    before = {p: p.dtype for p in parameters if p.dtype in _HALF}
    for parameter in before:
        parameter.grad = None
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter, dtype in before.items():
            parameter.grad = None
            parameter.data = parameter.data.to(dtype)
