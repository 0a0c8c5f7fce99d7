r"""How a model is set while it trains: no cache of keys and values, activations kept or computed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from coursekit.errors import CourseError


@contextmanager
def no_key_value_cache(model: nn.Module) -> Iterator[None]:
    r"""A decoder would keep keys and values for generation, which training has no use for."""
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
