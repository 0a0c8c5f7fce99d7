r"""A KV cache that was begun with virtual tokens: it remembers them in a note, and counts only text for its caller.

    what it holds             V V V t t t t t           keys and values of 3 virtual tokens and of 5 of the text
    its note, HELD            1 1 1                     (rows, most): 0 for a slot that a row leaves free
    get_seq_length()          5                         for the caller; within the model 8

`VirtualTokens` opens a cache before the model's body reads it, and closes it after.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

#: The name of the note.
HELD = "virtual_tokens"


def filled(cache: Any) -> bool:
    r"""Whether `cache` holds tokens that the next ones follow."""
    return cache is not None and bool(cache.get_seq_length())


def open_cache(cache: Any) -> bool:
    r"""Let `cache` count all that it holds, as the model itself has to. Gives whether its text goes on now."""
    going_on = filled(cache)
    if cache is not None:
        vars(cache).pop("get_seq_length", None)
        if hasattr(cache, HELD) and not going_on:  # it was emptied
            delattr(cache, HELD)
    return going_on


def close_cache(cache: Any, held: Int[Tensor, "rows most"] | None = None) -> None:
    r"""Let `cache` tell its caller how much text it holds: `generate` goes on from there. held: a new note."""
    if cache is not None and held is not None:
        setattr(cache, HELD, held)
    if hasattr(cache, HELD):
        cache.get_seq_length = partial(_text_length, cache)


def go_on(call: dict[str, Any], counts_itself: bool) -> None:
    r"""Mask and positions for tokens that follow a filled cache: its caller does not count its virtual tokens.

    counts_itself: whether the model makes positions of the mask.
    """
    cache, mask, positions = call["cache"], call.get("attention_mask"), call.get("position_ids")
    held = getattr(cache, HELD, None)
    if held is None:  # it was begun without any
        return
    text = cache.get_seq_length() - held.shape[1]
    if mask is None and len(held) > 1:
        ids = call.get("input_ids")
        seq = (call["inputs_embeds"] if ids is None else ids).shape[1]
        mask = held.new_ones(len(held), text + seq)
    if mask is not None:
        call["attention_mask"] = torch.cat([held.to(mask).expand(len(mask), -1), mask], dim=1)
        if positions is None and not counts_itself:
            positions = text_positions(mask)[:, text:]
    if positions is not None:
        call["position_ids"] = positions + held.sum(1, keepdim=True)


def text_positions(mask: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    r"""Positions from the first token that counts: padding on the left must not stand between prompt and text."""
    padding = (mask.cumsum(1) == 0).sum(1, keepdim=True)
    return (torch.arange(mask.shape[1], device=mask.device) - padding).clamp(min=0)


def _text_length(cache: Any, layer_idx: int = 0) -> int:
    return max(0, type(cache).get_seq_length(cache, layer_idx) - getattr(cache, HELD).shape[1])
