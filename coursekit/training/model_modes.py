r"""How a model is set while it trains: its mode, its precision, no cache, activations stored or recomputed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from coursekit.errors import CourseError
from coursekit.modes import in_mode
from coursekit.training.precision import master_weights


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
