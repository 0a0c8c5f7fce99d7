r"""Number of positions that a model has for a text and virtual tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from coursekit.errors import CourseError
from coursekit.methods.mechanism.modules import named_base_modules


def positions_from_ids(body: nn.Module) -> Callable[..., Any] | None:
    r"""The function from token ids to positions in a body like RoBERTa's, which counts from behind the padding id."""
    return getattr(getattr(body, "embeddings", None), "create_position_ids_from_input_ids", None)


def room(model: nn.Module) -> tuple[int | None, int]:
    r"""How many positions `model` has vectors for, and the first of them; None for rotations and relative positions."""
    body, config = model.base_model, model.config
    start = 0
    if positions_from_ids(body) is not None:
        if config.pad_token_id is None:
            raise CourseError("RoBERTa counts positions from its pad_token_id, and this config has none: set it")
        start = config.pad_token_id + 1
    table = any(
        isinstance(module, nn.Embedding) and _of_positions(path.rpartition(".")[2])
        for path, module in named_base_modules(body)
    )
    return (config.max_position_embeddings - start if table else None), start


def check_room(n: int, model: nn.Module) -> None:
    r"""Raise CourseError where n virtual tokens leave no position for a text."""
    have, _ = room(model)
    if have is not None and n >= have:
        raise CourseError(f"n={n} leaves no room for a text: this model has {have} positions")


def _of_positions(name: str) -> bool:
    return name in ("wpe", "position_embeddings", "embed_positions", "position_embedding")
